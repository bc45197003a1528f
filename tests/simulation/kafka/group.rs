//! The group coordinator and the members' assignor: who is a member, in which generation, and owns what.
//!
//! The classic protocol. A round begins when a member comes or goes and ends when all have joined it; members that are not heard
//! of are put out. Eagerly assigned members give everything back before they join; cooperative ones keep what they have, and what
//! is to move is given to nobody in the round in which its owner learns that it has to give it back.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sluicegate::kafka::TopicPartition;

/// A member that is not heard of for so long is put out.
pub(crate) const SESSION_TIMEOUT: Duration = Duration::from_secs(3);

/// What a member gets at the end of a round.
#[derive(Clone, Debug)]
pub(crate) struct Assignment {
    pub(crate) generation: i32,
    pub(crate) partitions: BTreeSet<TopicPartition>,
}

/// What the answer to a heartbeat says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Heartbeat {
    Fine,
    Rebalancing,
    Unknown,
}

#[derive(Debug)]
struct Member {
    heard: Duration,
    joined: bool,
    owned: BTreeSet<TopicPartition>,
    answer: Option<Assignment>,
}

/// A group, of members that read all partitions of all inputs.
#[derive(Debug)]
pub(crate) struct Group {
    inputs: u32,
    partitions: i32,
    generation: i32,
    members: BTreeMap<u64, Member>,
    last_member: u64,
    rebalancing: bool,
    /// Which member gets the first partition.
    rotation: usize,
}

/// Why the group refuses a commit.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Refusal {
    IllegalGeneration,
    UnknownMember,
}

impl Group {
    pub(crate) fn new(inputs: u32, partitions: i32) -> Self {
        Self {
            inputs,
            partitions,
            generation: 0,
            members: BTreeMap::new(),
            last_member: 0,
            rebalancing: false,
            rotation: 0,
        }
    }

    /// With one topic partitions move one by one; several are assigned together.
    pub(crate) fn is_cooperative(&self) -> bool {
        self.inputs == 1
    }

    /// Joins the round, or begins one. `None`: who was put out joins as somebody new.
    pub(crate) fn join(&mut self, member: Option<u64>, owned: BTreeSet<TopicPartition>, now: Duration) -> Option<u64> {
        if member.is_some_and(|id| !self.members.contains_key(&id)) {
            return None;
        }
        let id = member.unwrap_or_else(|| {
            self.last_member += 1;
            self.last_member
        });
        self.rebalancing = true;
        self.members.insert(id, Member { heard: now, joined: true, owned, answer: None });
        Some(id)
    }

    pub(crate) fn leave(&mut self, member: u64) {
        if self.members.remove(&member).is_some() {
            self.rebalancing = true;
        }
    }

    pub(crate) fn heartbeat(&mut self, member: u64, now: Duration) -> Heartbeat {
        let Some(found) = self.members.get_mut(&member) else { return Heartbeat::Unknown };
        found.heard = now;
        if self.rebalancing && !found.joined { Heartbeat::Rebalancing } else { Heartbeat::Fine }
    }

    /// What the member got in the round that it joined, once.
    pub(crate) fn answer(&mut self, member: u64) -> Option<Assignment> {
        self.members.get_mut(&member)?.answer.take()
    }

    /// Whether this is a member of this generation.
    pub(crate) fn check(&self, member: u64, generation: i32) -> Result<(), Refusal> {
        match self.members.contains_key(&member) {
            false => Err(Refusal::UnknownMember),
            true if generation != self.generation => Err(Refusal::IllegalGeneration),
            true => Ok(()),
        }
    }

    /// Moves partitions for no reason that the members know.
    pub(crate) fn disturb(&mut self) {
        self.rebalancing = true;
        self.rotation += 1;
    }

    /// Puts out who is not heard of, and ends a round that all have joined. Returns the new generation.
    pub(crate) fn tick(&mut self, now: Duration) -> Option<i32> {
        let before = self.members.len();
        self.members.retain(|_, member| now.saturating_sub(member.heard) < SESSION_TIMEOUT);
        self.rebalancing |= self.members.len() < before;
        if !self.rebalancing || self.members.is_empty() || !self.members.values().all(|member| member.joined) {
            return None;
        }
        self.generation += 1;
        self.rebalancing = false;
        let assigned = self.assign();
        for (id, member) in &mut self.members {
            let partitions = assigned.get(id).cloned().unwrap_or_default();
            member.joined = false;
            member.answer = Some(Assignment { generation: self.generation, partitions });
        }
        Some(self.generation)
    }

    fn assign(&self) -> BTreeMap<u64, BTreeSet<TopicPartition>> {
        let ids: Vec<u64> = self.members.keys().copied().collect();
        let owner_of = |number: i32| ids[(number as usize + self.rotation) % ids.len()];
        let mut assigned: BTreeMap<u64, BTreeSet<TopicPartition>> = BTreeMap::new();
        for partition in 0..self.partitions {
            for input in 0..self.inputs {
                let at = TopicPartition { input, partition };
                let wanted = owner_of(partition);
                let held = self.members.iter().find(|(_, member)| member.owned.contains(&at)).map(|(id, _)| *id);
                match held {
                    Some(holder) if self.is_cooperative() && holder != wanted => {}
                    _ => drop(assigned.entry(wanted).or_default().insert(at)),
                }
            }
        }
        assigned
    }
}
