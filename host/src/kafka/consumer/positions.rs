//! Which partitions are held and how far each has been delivered. Pure.
//!
//! Invariant: of a partition, records are let through only after [`Positions::start`], from the offset given there, in rising
//! order, each once. Whatever librdkafka still delivers from before (it may, across a seek or a new assignment) is dropped.

use crate::kafka::TopicPartition;
use crate::kafka::native::TopicId;

#[derive(Debug)]
struct Slot {
    topic: TopicId,
    partition: TopicPartition,
    /// Offset of the next record wanted; `None` until started.
    next: Option<i64>,
}

/// The partitions held.
#[derive(Debug, Default)]
pub(super) struct Positions {
    slots: Vec<Slot>,
    /// Where the last record was found: records come in runs of one partition.
    last: usize,
}

impl Positions {
    pub(super) fn hold(&mut self, topic: TopicId, partition: TopicPartition) {
        self.release(partition);
        self.slots.push(Slot { topic, partition, next: None });
    }

    pub(super) fn release(&mut self, partition: TopicPartition) {
        self.slots.retain(|slot| slot.partition != partition);
    }

    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }

    pub(super) fn holds(&self, partition: TopicPartition) -> bool {
        self.slots.iter().any(|slot| slot.partition == partition)
    }

    /// Every partition that is held.
    pub(super) fn held(&self) -> impl Iterator<Item = TopicPartition> {
        self.slots.iter().map(|slot| slot.partition)
    }

    /// Lets records through from `offset` on.
    pub(super) fn start(&mut self, partition: TopicPartition, offset: i64) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.partition == partition) {
            slot.next = Some(offset);
        }
    }

    /// Lets nothing through until started again.
    pub(super) fn stop(&mut self, partition: TopicPartition) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.partition == partition) {
            slot.next = None;
        }
    }

    /// Whether the partition is held and started.
    pub(super) fn started(&self, partition: TopicPartition) -> bool {
        self.position(partition).is_some()
    }

    /// Offset of the next record, once started.
    pub(super) fn position(&self, partition: TopicPartition) -> Option<i64> {
        self.slots.iter().find(|slot| slot.partition == partition)?.next
    }

    /// Whether the record at `offset` is wanted, and of which input it is. Moves the position past it.
    #[inline]
    pub(super) fn accept(&mut self, topic: TopicId, partition: i32, offset: i64) -> Option<u32> {
        let slot = match self.slots.get_mut(self.last) {
            Some(slot) if slot.topic == topic && slot.partition.partition == partition => slot,
            _ => {
                self.last = self.find(topic, partition)?;
                self.slots.get_mut(self.last)?
            }
        };
        let next = slot.next.as_mut().filter(|next| offset >= **next)?;
        *next = offset + 1;
        Some(slot.partition.input)
    }

    /// The held partition with this topic and number.
    pub(super) fn identify(&self, topic: TopicId, partition: i32) -> Option<TopicPartition> {
        self.find(topic, partition).map(|index| self.slots[index].partition)
    }

    fn find(&self, topic: TopicId, partition: i32) -> Option<usize> {
        self.slots.iter().position(|slot| slot.topic == topic && slot.partition.partition == partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> (Positions, TopicId, TopicPartition) {
        let (topic, partition) = (TopicId::for_tests(1), TopicPartition { input: 4, partition: 2 });
        let mut positions = Positions::default();
        positions.hold(topic, partition);
        (positions, topic, partition)
    }

    #[test]
    fn nothing_passes_before_the_start() {
        let (mut positions, topic, _) = held();
        assert_eq!(positions.accept(topic, 2, 10), None);
    }

    #[test]
    fn records_pass_once_and_in_order_from_the_start() {
        let (mut positions, topic, partition) = held();
        positions.start(partition, 10);
        assert_eq!(positions.accept(topic, 2, 9), None);
        assert_eq!(positions.accept(topic, 2, 10), Some(4));
        assert_eq!(positions.accept(topic, 2, 10), None);
        assert_eq!(positions.accept(topic, 2, 13), Some(4), "gaps are compaction's and transactions'");
        assert_eq!(positions.position(partition), Some(14));
    }

    #[test]
    fn released_and_foreign_partitions_do_not_pass() {
        let (mut positions, topic, partition) = held();
        positions.start(partition, 0);
        assert_eq!(positions.accept(topic, 2, 0), Some(4));
        assert_eq!(positions.accept(TopicId::for_tests(2), 2, 1), None);
        assert_eq!(positions.accept(topic, 3, 1), None);
        positions.release(partition);
        assert_eq!(positions.accept(topic, 2, 1), None);
    }

    #[test]
    fn holding_again_forgets_the_old_position() {
        let (mut positions, topic, partition) = held();
        positions.start(partition, 5);
        positions.hold(topic, partition);
        assert_eq!(positions.accept(topic, 2, 5), None);
    }
}
