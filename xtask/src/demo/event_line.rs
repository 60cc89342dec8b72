//! One line of the agent's text output, taken apart: time, level, message, `key=value`.

pub(super) const KILLED: &str = "OOM kill detected";
pub(super) const SURVIVED: &str = "container survived the OOM kill";
pub(super) const NEAR: &str = "memory usage exceeded threshold - OOM likely";
pub(super) const ENDED: &str = "container ended after the OOM kill";

/// An event as the agent printed it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EventLine {
    pub(super) message: String,
    fields: Vec<(String, String)>,
}

impl EventLine {
    /// Takes a line apart.
    pub(super) fn parse(line: &str) -> Self {
        let rest = line.splitn(3, ' ').nth(2).unwrap_or_default();
        let mut words = Words(rest).map(|word| match word.split_once('=') {
            Some((key, value)) => Ok((key.to_owned(), unquoted(value))),
            None => Err(word),
        });
        let mut message: Vec<&str> = Vec::new();
        let mut fields = Vec::new();
        for word in &mut words {
            match word {
                Ok(field) => fields.push(field),
                Err(word) => message.push(word),
            }
        }
        Self { message: message.join(" "), fields }
    }

    /// A field; `None` where the agent does not know it.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.fields.iter().find(|(it, _)| it == key).map(|(_, value)| value.as_str())
    }

    /// Whether this is a kill in the cgroup of this name.
    pub(super) fn is_kill_in(&self, cgroup: &str) -> bool {
        let named = self.get("cgroup_path").is_some_and(|path| path.split('/').any(|name| name == cgroup));
        self.message == KILLED && named
    }

    /// Whether this says what became of the container after a kill.
    pub(super) fn is_outcome_of(&self, container_id: &str) -> bool {
        [SURVIVED, ENDED].contains(&self.message.as_str()) && self.get("container_id") == Some(container_id)
    }
}

/// Splits at spaces that are outside of quotes.
struct Words<'a>(&'a str);

impl<'a> Iterator for Words<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.0 = self.0.trim_start_matches(' ');
        let (mut quoted, mut escaped) = (false, false);
        let end = self.0.bytes().position(|byte| {
            quoted ^= byte == b'"' && !escaped;
            escaped = byte == b'\\' && !escaped;
            byte == b' ' && !quoted
        });
        let (word, rest) = self.0.split_at(end.unwrap_or(self.0.len()));
        self.0 = rest;
        (!word.is_empty()).then_some(word)
    }
}

/// Takes the quotes off; what was escaped inside stays so, for it may be anything.
fn unquoted(value: &str) -> String {
    let inner = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
    inner.unwrap_or(value).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str =
        r#"2026-01-01T00:00:00.000000000Z WRN OOM kill detected cgroup_path=/a/b pid=7 comm="a b=\"c\\" scope=memcg"#;

    #[test]
    fn a_line_is_its_message_and_its_fields() {
        let event = EventLine::parse(LINE);
        assert_eq!(event.message, "OOM kill detected");
        assert_eq!(event.get("pid"), Some("7"));
        assert_eq!(event.get("comm"), Some(r#"a b=\"c\\"#));
        assert_eq!(event.get("scope"), Some("memcg"));
        assert_eq!(event.get("image"), None);
    }

    #[test]
    fn a_kill_is_known_by_a_whole_name_of_its_cgroup() {
        let event = EventLine::parse(LINE);
        assert!(event.is_kill_in("b"));
        assert!(!event.is_kill_in("/a"));
        assert!(!EventLine::parse(&LINE.replace("kill detected", "without a kill")).is_kill_in("b"));
    }

    #[test]
    fn an_outcome_is_known_by_its_container() {
        let outcome = |message| EventLine::parse(&format!("2026-01-01T00:00:00Z INF {message} container_id=c1"));
        assert!(outcome(SURVIVED).is_outcome_of("c1"));
        assert!(outcome(ENDED).is_outcome_of("c1"));
        assert!(!outcome(ENDED).is_outcome_of("c"));
        assert!(!outcome(KILLED).is_outcome_of("c1"));
    }

    #[test]
    fn any_text_can_be_taken_apart() {
        for text in ["", " ", "one", "one two", "one two three", r#"a b c="un closed \"#, "a b \u{e9}=\u{e9}"] {
            EventLine::parse(text);
        }
    }
}
