//! The table of field offsets that the agent writes before it loads the program.

use oomwatch_common::{FIELD_COUNT, Field, MISSING};

#[unsafe(no_mangle)]
static OFFSETS: [u32; FIELD_COUNT] = [MISSING; FIELD_COUNT];

/// Entry of the table, or `None` where the running kernel has no such field.
#[inline(always)]
pub(crate) fn offset(field: Field) -> Option<u64> {
    // SAFETY: a `Field` is an index below `FIELD_COUNT`. Volatile, for the loader replaces the initial value.
    let value = unsafe { core::ptr::read_volatile(&raw const OFFSETS[field as usize]) };
    if value == MISSING { None } else { Some(u64::from(value)) }
}
