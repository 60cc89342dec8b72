//! Bytes that cross the border between the kernel program and the agent: no behaviour, no allocation.
//!
//! Every record starts with a [`RecordHeader`]; the agent decodes by its `kind` after checking the length.
//! All sizes are asserted at compile time, so both sides of the border agree or nothing builds.
#![no_std]

pub mod field;
pub mod record;

pub use field::{FIELD_COUNT, Field, MISSING};
pub use record::{
    CHANGE_RING, CgroupRecord, ExecRecord, ExitRecord, KillRecord, MAX_LEVELS, MAX_NAME, MAX_PATH, MemcgLevel,
    MemcgRef, OOM_RING, OomContext, OomEndRecord, PATH_CAPACITY, PathBytes, PressureCounters, PressureRecord,
    RECORD_LAYOUT, Reclaimed, RecordHeader, RecordKind, TRACE_BYTES, TraceRecord,
};
