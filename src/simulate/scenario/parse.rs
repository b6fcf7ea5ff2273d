//! A file into steps.

use std::collections::{BTreeMap, BTreeSet};

use hourglass_ledger::core::{Command, Policy};
use hourglass_units::{AgentId, INSTANT_MIN, InstanceId, Instant, Region};

use super::lex::{Word, Words, words};
use super::{Act, FAULTS_MAX, FILE_BYTES_MAX, Fault, STEPS_MAX, Scenario, Step, UNREADABLE, verbs};

/// When a scenario begins that does not say so, in milliseconds: 2026-01-01T00:00:00Z.
const BEGINS_UNIX_MS: i64 = 1_767_225_600_000;
/// The cell's region where the file names none.
const REGION: &str = "eu";

/// Reads a file, whole or not at all: its mistakes, in order of their lines.
pub fn parse(text: &str) -> Result<Scenario, Vec<Fault>> {
    if text.len() > FILE_BYTES_MAX {
        let what = format!("the file has {} bytes, more than {FILE_BYTES_MAX}: split it", text.len());
        return Err(vec![Fault::new(1, 1, what)]);
    }
    let mut parser = Parser::default();
    let mut lines = (1..).zip(text.lines());
    let mut faults = Vec::new();
    while let Some((line, text)) = lines.next() {
        faults.extend(parser.line(line, text, &mut lines).err());
    }
    // A step that cannot be read is what the file wants only where it says so.
    faults.extend(parser.steps.iter().filter_map(|step| match &step.act {
        Act::Unreadable(fault) if step.refused.as_ref().is_none_or(|(_, code)| code != UNREADABLE) => {
            Some(fault.clone())
        }
        _ => None,
    }));
    if parser.steps.is_empty() && faults.is_empty() {
        faults.push(Fault::new(1, 1, "the file has no steps: begin with `tenant acme USD`"));
    }
    if faults.is_empty() {
        return Ok(Scenario { steps: parser.steps });
    }
    faults.sort_by_key(|fault| (fault.line, fault.column));
    faults.truncate(FAULTS_MAX);
    Err(faults)
}

/// What the lines before say of those that follow.
#[derive(Default)]
pub(super) struct Parser {
    steps: Vec<Step>,
    /// The time of the step before.
    now: Option<Instant>,
    pub(super) region: Option<Region>,
    /// GPUs and agent of each instance.
    pub(super) instances: BTreeMap<InstanceId, (u32, Option<AgentId>)>,
    /// GPUs of a unit of each bid.
    pub(super) units: BTreeMap<String, u32>,
    /// Usage reports that the steps make.
    pub(super) reports: usize,
    /// Holds, leases, requests and bids that have a name.
    names: BTreeSet<String>,
}

/// What stands between `<<WORD` and `WORD`.
pub(super) struct Block {
    pub(super) text: String,
    /// The line of the file before its first one.
    pub(super) after: usize,
}

impl Parser {
    fn line<'a>(
        &mut self,
        line: usize,
        text: &str,
        lines: &mut impl Iterator<Item = (usize, &'a str)>,
    ) -> Result<(), Fault> {
        let mut all = words(line, text)?;
        let block = match all.pop_if(|word| word.text.starts_with("<<")) {
            None => None,
            Some(opens) => Some(block(&opens, lines)?),
        };
        let mut rest = all.into_iter().peekable();
        let before = self.now.unwrap_or(INSTANT_MIN);
        let base = self.now.unwrap_or_else(|| INSTANT_MIN.saturating_add_ms(BEGINS_UNIX_MS));
        let timed = rest.next_if(|word| word.text.starts_with(|it: char| it.is_ascii_digit() || it == '+'));
        let at = timed.as_ref().map_or(Ok(base), |word| word.time(base))?;
        let verb = match (rest.next(), timed) {
            (Some(verb), _) => verb,
            (None, None) => return Ok(()),
            (None, Some(time)) => return Err(time.fault("a step follows its time: write `2026-01-01 tick`")),
        };
        if at < before {
            return Err(verb.fault(format!(
                "{at} is before the step above it ({before}): steps go forward in time, and what happened earlier is given with at="
            )));
        }
        let words = Words::new(verb.clone(), verbs::form(&verb)?, rest)?;
        if words.is_refusal() {
            return self.refusal(words);
        }
        self.now = Some(at);
        self.open_cell(&verb, at)?;
        let act = match verbs::act(self, words, at, block) {
            Err(fault) if verb.text != "expect" => Act::Unreadable(fault),
            act => act?,
        };
        self.push(Step { line, at, text: text.trim().to_owned(), act, refused: None }, &verb)
    }

    /// A cell opens before anything else happens.
    fn open_cell(&mut self, verb: &Word, at: Instant) -> Result<(), Fault> {
        if self.steps.is_empty() && verb.text != "cell" {
            let command = Command::OpenCell { region: self.region(verb)?, policy: Policy::default() };
            let (line, act) = (verb.line, Act::Command(Box::new(command)));
            self.steps.push(Step { line, at, text: "cell".to_owned(), act, refused: None });
        }
        Ok(())
    }

    /// The cell's region.
    pub(super) fn region(&self, verb: &Word) -> Result<Region, Fault> {
        self.region.clone().map_or_else(|| REGION.parse().map_err(|error| verb.fault(error)), Ok)
    }

    /// A name for something new.
    pub(super) fn name(&mut self, name: &Word) -> Result<(), Fault> {
        match self.names.insert(name.text.clone()) {
            true => Ok(()),
            false => Err(name.fault(format!("{} is a name already: choose another one", name.text))),
        }
    }

    /// A name for something that a step above makes.
    pub(super) fn knows(&self, name: &Word) -> Result<(), Fault> {
        match self.names.contains(&name.text) {
            true => Ok(()),
            false => {
                Err(name.fault(format!("no step above made {}: name a hold, lease or request", name.text)))
            }
        }
    }

    fn push(&mut self, step: Step, verb: &Word) -> Result<(), Fault> {
        if self.steps.len() >= STEPS_MAX {
            return Err(verb.fault(format!("the file has more than {STEPS_MAX} steps: split it")));
        }
        // Prices that follow one another are one card.
        if let Some(last) = self.steps.last_mut()
            && last.at == step.at
            && last.refused.is_none()
            && let (Act::Prices(card), Act::Prices(more)) = (&mut last.act, &step.act)
            && (&card.name, card.currency, card.from) == (&more.name, more.currency, more.from)
        {
            card.prices.extend(more.prices.iter().cloned());
            return Ok(());
        }
        self.steps.push(step);
        Ok(())
    }

    /// `expect refused CODE` is about the step right above it.
    fn refusal(&mut self, mut words: Words) -> Result<(), Fault> {
        words.next("refused")?;
        let code = words.next("the code of the refusal")?;
        words.end()?;
        match self.steps.last_mut() {
            Some(step) if step.refused.is_none() && step.act.can_be_refused() => {
                step.refused = Some((code.line, code.text));
                Ok(())
            }
            _ => Err(code.fault("no step stands right above it that could be refused: move it there")),
        }
    }
}

/// Takes the lines up to the one that ends the text.
fn block<'a>(opens: &Word, lines: &mut impl Iterator<Item = (usize, &'a str)>) -> Result<Block, Fault> {
    let end = opens.text.trim_start_matches('<');
    if end.is_empty() {
        return Err(opens.fault("a word follows << and ends the text on a line of its own: write <<TOML"));
    }
    let mut text = String::new();
    for (_, line) in lines {
        if line.trim() == end {
            return Ok(Block { text, after: opens.line });
        }
        text.push_str(line);
        text.push('\n');
    }
    Err(opens.fault(format!("no line {end} follows that would end this text: add one")))
}
