//! The table of truth in `docs/truth.md`: what each rung of the ladder says of each kind of kill, below each kernel. In
//! come the lines of the scenario `truth`; out go the file, and a complaint where an answer that was right no longer is.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, bail};

use crate::{process::say, root};

const HEAD: &str = "# What each rung says, and whether it is true

Made by `cargo xtask test` and `cargo xtask vm`: the scenario `truth` makes each kind of kill once, with an agent on every
rung of the ladder watching, and compares each answer with what it did and what the kernel counted. A run fails where an
answer that is right here no longer is.

- ✓ right
- ✗ something else was said
- – not said, and nothing else in its place
- ~ right or not said, as it happens: it depends on who is faster, the agent or the victim's end, and on what the log left out
- An empty cell: this kernel does not have it.

`-v1` and `-v2` are the version of cgroups. A rung that is not listed is not there: fentry and kprobes are refused, or, on
5.10.218, the kernel's mark of a victim holds a thread's id only, and no victim is seen without them.

";

const RIGHT: &str = "✓";
/// In the place of a question that was not asked while others of its scene were.
const NOT_ASKED: &str = "·";

/// One answer: scene, question, mark.
type Cell = (String, String, &'static str);
/// Machine and rung.
type Row = (String, String);
/// By scene and question.
type Marks = BTreeMap<(String, String), String>;

/// What the scenario said on one machine.
#[derive(Debug)]
pub(crate) struct Measured {
    machine: String,
    /// In the order of the scenario.
    answers: Vec<(String, Cell)>,
}

impl Measured {
    /// Takes the answers out of what a machine said.
    pub(crate) fn new<S: AsRef<str>>(machine: String, lines: impl Iterator<Item = S>) -> Self {
        Self { machine, answers: lines.filter_map(|line| answer(line.as_ref())).collect() }
    }
}

/// `truth|RUNG|SCENE|QUESTION|ANSWER|why`, after whatever the harness wrote in the same line.
fn answer(line: &str) -> Option<(String, Cell)> {
    let mut fields = line.split_once("truth|")?.1.split('|');
    let (rung, scene, question) = (fields.next()?, fields.next()?, fields.next()?);
    let mark = match fields.next()? {
        "right" => RIGHT,
        "wrong" => "✗",
        "absent" => "–",
        "race" => "~",
        _ => return None,
    };
    Some((rung.to_owned(), (scene.to_owned(), question.to_owned(), mark)))
}

/// The table: scenes with their questions, and the marks of each row.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Table {
    scenes: Vec<(String, Vec<String>)>,
    rows: Vec<(Row, Marks)>,
}

impl Table {
    fn parse(text: &str) -> Self {
        let mut table = Self::default();
        for line in text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---")) {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [machine, rung, rest @ ..] = cells.as_slice() else { continue };
            if table.scenes.is_empty() {
                let scene = |cell: &&str| {
                    let (scene, questions) = cell.split_once(": ").unwrap_or((cell, ""));
                    (scene.to_owned(), questions.split(' ').map(str::to_owned).collect())
                };
                table.scenes = rest.iter().map(scene).collect();
                continue;
            }
            let marks = rest.iter().zip(&table.scenes).flat_map(|(cell, (scene, questions))| {
                let marks = cell.split_whitespace().map(str::to_owned);
                let asked = questions.iter().zip(marks).filter(|(_, mark)| mark != NOT_ASKED);
                asked.map(|(question, mark)| ((scene.clone(), question.clone()), mark))
            });
            table.rows.push((((*machine).to_owned(), (*rung).to_owned()), marks.collect()));
        }
        table
    }

    /// Puts what was measured on a machine into the place of what is there of it.
    fn replace(&mut self, measured: &Measured) {
        self.rows.retain(|((machine, _), _)| *machine != measured.machine);
        for (rung, (scene, question, mark)) in &measured.answers {
            let at = self.scenes.iter().position(|(name, _)| name == scene).unwrap_or_else(|| {
                self.scenes.push((scene.clone(), Vec::new()));
                self.scenes.len() - 1
            });
            let questions = &mut self.scenes[at].1;
            if !questions.contains(question) {
                questions.push(question.clone());
            }
            let row = (measured.machine.clone(), rung.clone());
            let at = self.rows.iter().position(|(it, _)| *it == row).unwrap_or_else(|| {
                self.rows.push((row, BTreeMap::new()));
                self.rows.len() - 1
            });
            self.rows[at].1.insert((scene.clone(), question.clone()), (*mark).to_owned());
        }
        // Stable, so the rungs of a machine stay in their order.
        self.rows.sort_by_key(|((machine, _), _)| (numbers(machine), machine.clone()));
    }

    /// Answers that were right and are not.
    fn lost(&self, now: &Self) -> Vec<String> {
        let mut lost = Vec::new();
        for (row, marks) in &self.rows {
            let after = now.rows.iter().find(|(it, _)| it == row).map(|(_, marks)| marks);
            for ((scene, question), _) in marks.iter().filter(|(_, mark)| *mark == RIGHT) {
                let is = after.and_then(|marks| marks.get(&(scene.clone(), question.clone())));
                if is.is_none_or(|mark| mark != RIGHT) {
                    let is = is.map_or("gone", String::as_str);
                    lost.push(format!("{} {}: {scene}: {question} was {RIGHT} and is {is}", row.0, row.1));
                }
            }
        }
        lost
    }

    fn markdown(&self) -> String {
        let heads = self.scenes.iter().map(|(scene, questions)| format!(" {scene}: {} |", questions.join(" ")));
        let mut text = format!("| kernel | rung |{}\n", heads.collect::<String>());
        text.push_str("|---|---|");
        text.push_str(&"---|".repeat(self.scenes.len()));
        text.push('\n');
        for ((machine, rung), marks) in &self.rows {
            let cells = self.scenes.iter().map(|(scene, questions)| format!(" {} |", cell(marks, scene, questions)));
            text.push_str(&["| ", machine, " | ", rung, " |", &cells.collect::<String>(), "\n"].concat());
        }
        text
    }
}

/// The marks of a scene; nothing where it was not played.
fn cell(marks: &Marks, scene: &str, questions: &[String]) -> String {
    let mark = |question: &String| marks.get(&(scene.to_owned(), question.clone())).map(String::as_str);
    let played = questions.iter().any(|question| mark(question).is_some());
    let marks = questions.iter().filter(|_| played).map(|question| mark(question).unwrap_or(NOT_ASKED));
    marks.collect::<Vec<_>>().join(" ")
}

/// `5.10.218-v1` in the order of its numbers.
fn numbers(machine: &str) -> Vec<u32> {
    machine.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Compares what was measured with the file, and writes it where asked to, every machine answered and nothing got worse.
pub(crate) fn update(measured: &[Measured], write: bool) -> anyhow::Result<()> {
    let file = file();
    let before = Table::parse(&fs::read_to_string(&file).unwrap_or_default());
    let mut after = before.clone();
    for machine in measured {
        after.replace(machine);
    }
    let lost = before.lost(&after);
    if !lost.is_empty() {
        say(&after.markdown());
        bail!("{} says what is no longer true:\n  {}", file.display(), lost.join("\n  "));
    }
    if write && after != before && measured.iter().all(|machine| !machine.answers.is_empty()) {
        let folder = file.parent().context("a folder for the table")?;
        fs::create_dir_all(folder).with_context(|| format!("create {}", folder.display()))?;
        fs::write(&file, format!("{HEAD}{}", after.markdown())).with_context(|| format!("write {}", file.display()))?;
        say(&format!("{} is new", file.display()));
    }
    Ok(())
}

fn file() -> PathBuf {
    root().join("docs/truth.md")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(machine: &str, lines: &[&str]) -> Measured {
        Measured::new(machine.to_owned(), lines.iter())
    }

    fn table() -> Table {
        let mut table = Table::default();
        let lines = [
            "test it ... truth|bpf+fentry|plain|victim|right|",
            "truth|bpf+fentry|plain|limit|absent|",
            "truth|bpf+fentry|storm|count|wrong|said 3",
            "truth|bpf+record|plain|limit|race|",
            "something else",
        ];
        table.replace(&measured("6.1-v2", &lines));
        table.replace(&measured("5.10-v1", &lines[..2]));
        table
    }

    #[test]
    fn what_is_written_is_read_again() {
        let text = format!("{HEAD}{}", table().markdown());
        assert!(text.ends_with(
            "| kernel | rung | plain: victim limit | storm: count |\n\
             |---|---|---|---|\n\
             | 5.10-v1 | bpf+fentry | ✓ – |  |\n\
             | 6.1-v2 | bpf+fentry | ✓ – | ✗ |\n\
             | 6.1-v2 | bpf+record | · ~ |  |\n"
        ));
        assert_eq!(Table::parse(&text), table());
    }

    #[test]
    fn only_what_was_right_can_be_lost() {
        let mut now = table();
        now.replace(&measured("6.1-v2", &["truth|bpf+fentry|plain|victim|absent|"]));
        assert_eq!(table().lost(&now), ["6.1-v2 bpf+fentry: plain: victim was ✓ and is –"]);
        now.replace(&measured("5.10-v1", &[]));
        assert_eq!(table().lost(&now)[0], "5.10-v1 bpf+fentry: plain: victim was ✓ and is gone");
        assert_eq!(table().lost(&table()), Vec::<String>::new());
    }
}
