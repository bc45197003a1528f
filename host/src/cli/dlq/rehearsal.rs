//! `sluicegate dlq replay --dry-run`: what the present version would make of dead letters.

use std::collections::BTreeMap;
use std::io::Write;

use serde::Serialize;

use super::letters::{self, Letter, Place};
use super::{Replayed, Topic};
use crate::cli::{CommandError, comparison, table};
use crate::comparison::{Side, put_aside, record};
use crate::node::replay::letters::{Fate, try_again};

/// Shows what the present version would make of letters.
pub(super) async fn rehearse(
    topic: &Topic,
    chosen: &[Letter],
    json: bool,
    out: &mut impl Write,
) -> Result<(), CommandError> {
    let (mut orders, mut ordered) = (Vec::new(), Vec::new());
    for letter in chosen {
        // One whose headers are damaged cannot be ordered either.
        if let Ok(order) = letters::order(letter) {
            ordered.push(letter.letter);
            orders.push(order);
        }
    }
    let (plan, fates) = try_again(&topic.connection.cluster, &topic.connection.store, &topic.record, orders).await?;
    let mut fates: BTreeMap<Place, Fate> = ordered.into_iter().zip(fates).collect();
    let sinks: Vec<String> = plan.sinks.iter().map(|sink| sink.topic.clone()).collect();
    let would = |letter: &Letter| Would::new(letter, fates.remove(&letter.letter).unwrap_or(Fate::Unknown), &sinks);
    let would: Vec<Would> = chosen.iter().map(would).collect();
    if json {
        let letters = chosen.iter().map(|letter| letter.letter).collect();
        return Ok(table::json(out, &Replayed { letters, ordered: false, failed_again: None, would })?);
    }
    if chosen.is_empty() {
        return Ok(writeln!(out, "there is nothing to process again")?);
    }
    let rows = |(letter, would): (&Letter, &Would)| -> Vec<[String; 5]> {
        let row =
            |line| [letter.letter.to_string(), letter.transform.clone(), letter.source(), letter.error.clone(), line];
        would.lines().into_iter().map(row).collect()
    };
    let rows: Vec<[String; 5]> = chosen.iter().zip(&would).flat_map(rows).collect();
    Ok(table::print(out, ["LETTER", "TRANSFORM", "SOURCE", "ERROR", "WOULD NOW"], &rows)?)
}

/// What would come of a letter.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Would {
    letter: Place,
    /// Records that would be sent, each with its topic.
    sent: Vec<(String, Side)>,
    /// What would become a dead letter again.
    put_aside: Vec<Side>,
    /// Why there is neither, if it is not that nothing comes of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl Would {
    fn new(letter: &Letter, fate: Fate, sinks: &[String]) -> Self {
        let place = letter.letter;
        let cannot = |problem: String| Self { letter: place, sent: vec![], put_aside: vec![], problem: Some(problem) };
        match fate {
            Fate::Processed(outcome) => Self {
                letter: place,
                sent: outcome.sent.iter().map(|sent| (sinks[sent.sink].clone(), record(sent))).collect(),
                put_aside: outcome.refusals.iter().map(put_aside).collect(),
                problem: None,
            },
            Fate::Stops(reason) => cannot(format!("stop the pipeline: {reason}")),
            Fate::NotReached => cannot("not be reached".to_owned()),
            Fate::Unknown => cannot(format!(
                "not be processed: the pipeline does not have both transform `{}` and source topic {}, or the letter is damaged",
                letter.transform, letter.topic
            )),
        }
    }

    /// For people.
    fn lines(&self) -> Vec<String> {
        let sent = self
            .sent
            .iter()
            .map(|(topic, side)| format!("send to {topic}: {}", comparison::side(&side.without_timestamp())));
        let aside = self.put_aside.iter().map(|side| format!("be put aside: {}", comparison::side(side)));
        let problem = self.problem.iter().map(|problem| problem.lines().next().unwrap_or_default().to_owned());
        let lines: Vec<String> = sent.chain(aside).chain(problem).collect();
        if lines.is_empty() { vec!["leave nothing".to_owned()] } else { lines }
    }
}
