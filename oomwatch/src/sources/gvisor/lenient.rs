//! JSON of others, read without being hurt by a wrong type: what is not of the kind asked for is as good as absent, and
//! is passed over without being kept.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

/// Longest text taken for a name or a path, bytes.
const MAX_TEXT: usize = 4096;
/// Highest process id of any Linux (`PID_MAX_LIMIT`).
const MAX_PID: i64 = 1 << 22;

/// A single value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) enum Leaf {
    /// Absent, null, of another kind, or beyond its kind's bounds.
    #[default]
    Nothing,
    Bool(bool),
    Integer(i64),
    Text(String),
}

impl Leaf {
    pub(super) fn text(self) -> Option<String> {
        if let Self::Text(text) = self { Some(text) } else { None }
    }

    pub(super) fn integer(&self) -> Option<i64> {
        if let Self::Integer(value) = self { Some(*value) } else { None }
    }

    pub(super) fn is_true(&self) -> bool {
        *self == Self::Bool(true)
    }

    /// The id of a process; runsc writes 0 where there is none.
    pub(super) fn pid(&self) -> Option<u32> {
        self.integer().filter(|pid| (1..=MAX_PID).contains(pid)).and_then(|pid| u32::try_from(pid).ok())
    }
}

/// An object, or nothing where something else stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object<T>(Option<T>);

impl<T> Default for Object<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default> Object<T> {
    /// Its content; all of it absent where there is no object.
    pub(super) fn content(self) -> T {
        self.0.unwrap_or_default()
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.is_some()
    }
}

/// How many elements an array has; none where there is no array.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct List(usize);

impl List {
    pub(super) fn elements(self) -> usize {
        self.0
    }
}

/// What each kind makes of what stands there; of most, nothing.
trait Kind<'de>: Default {
    fn of_leaf(_leaf: Leaf) -> Self {
        Self::default()
    }

    fn of_array<A: SeqAccess<'de>>(array: A) -> Result<Self, A::Error> {
        count(array).map(|_| Self::default())
    }

    fn of_object<A: MapAccess<'de>>(mut object: A) -> Result<Self, A::Error> {
        while object.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Self::default())
    }
}

fn count<'de, A: SeqAccess<'de>>(mut array: A) -> Result<usize, A::Error> {
    let mut elements = 0;
    while array.next_element::<IgnoredAny>()?.is_some() {
        elements += 1;
    }
    Ok(elements)
}

impl Kind<'_> for Leaf {
    fn of_leaf(leaf: Leaf) -> Self {
        leaf
    }
}

impl<'de, T: Deserialize<'de>> Kind<'de> for Object<T> {
    fn of_object<A: MapAccess<'de>>(object: A) -> Result<Self, A::Error> {
        T::deserialize(MapAccessDeserializer::new(object)).map(|content| Self(Some(content)))
    }
}

impl<'de> Kind<'de> for List {
    fn of_array<A: SeqAccess<'de>>(array: A) -> Result<Self, A::Error> {
        count(array).map(Self)
    }
}

struct Anything<K>(PhantomData<K>);

impl<'de, K: Kind<'de>> Visitor<'de> for Anything<K> {
    type Value = K;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_bool<E>(self, value: bool) -> Result<K, E> {
        Ok(K::of_leaf(Leaf::Bool(value)))
    }

    fn visit_i64<E>(self, value: i64) -> Result<K, E> {
        Ok(K::of_leaf(Leaf::Integer(value)))
    }

    fn visit_u64<E>(self, value: u64) -> Result<K, E> {
        Ok(K::of_leaf(i64::try_from(value).map_or(Leaf::Nothing, Leaf::Integer)))
    }

    fn visit_f64<E>(self, _value: f64) -> Result<K, E> {
        Ok(K::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<K, E> {
        let fits = !text.is_empty() && text.len() <= MAX_TEXT;
        Ok(K::of_leaf(if fits { Leaf::Text(text.to_owned()) } else { Leaf::Nothing }))
    }

    fn visit_unit<E>(self) -> Result<K, E> {
        Ok(K::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, array: A) -> Result<K, A::Error> {
        K::of_array(array)
    }

    fn visit_map<A: MapAccess<'de>>(self, object: A) -> Result<K, A::Error> {
        K::of_object(object)
    }
}

fn anything<'de, K: Kind<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<K, D::Error> {
    deserializer.deserialize_any(Anything(PhantomData))
}

impl<'de> Deserialize<'de> for Leaf {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        anything(deserializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        anything(deserializer)
    }
}

impl<'de> Deserialize<'de> for List {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        anything(deserializer)
    }
}
