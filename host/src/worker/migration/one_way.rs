//! A task that has gone over to a version which does not convert its state back. Nothing is kept in step: what is left to do is to
//! see the switch through until it is committed.

use super::{Put, put_again};
use crate::state::TaskState;

/// A task has gone over for good.
#[derive(Debug, Default)]
pub struct OneWay {
    /// What was copied in the switch, while that is not committed: going back to the commit before takes it away.
    unsettled: Vec<Put>,
}

impl OneWay {
    /// Just now, with what was copied in the switch.
    pub(super) fn after(unsettled: Vec<Put>) -> Self {
        Self { unsettled }
    }

    /// The switch is committed.
    pub fn settle(&mut self) {
        self.unsettled.clear();
    }

    /// The task has gone back to its last commit, which may be the one before the switch. Whether anything was put again.
    pub fn redo(&mut self, state: &mut TaskState) -> bool {
        put_again(&self.unsettled, state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::StoreName;

    #[test]
    fn what_the_switch_copied_survives_an_abort_until_it_is_committed_and_is_then_left_alone() {
        let mut state = TaskState::default();
        let target = state.number(&StoreName::of("count", "counts", 2));
        let keys = [Some(&b"new"[..]), Some(b"gone")].into_iter().collect();
        let values = [Some(&b"7;"[..]), None].into_iter().collect();
        let put = Put { target, keys, values };
        state.store_mut(target).put(b"gone", Some(b"1;"));
        let durable = |state: &mut TaskState| {
            state.seal();
            state.stores_mut().for_each(|store| store.mark_durable());
        };
        durable(&mut state);
        put.apply(&mut state);
        let mut one_way = OneWay::after(vec![put]);
        let found = |state: &TaskState| {
            let store = state.store(target);
            (store.get(b"new").map(<[u8]>::to_vec), store.get(b"gone").map(<[u8]>::to_vec))
        };
        let switched = (Some(b"7;".to_vec()), None);
        // The commit of the switch is aborted, more than once.
        for _ in 0..2 {
            state.stores_mut().for_each(|store| store.roll_back());
            assert_ne!(found(&state), switched);
            assert!(one_way.redo(&mut state));
            assert_eq!(found(&state), switched);
        }
        durable(&mut state);
        one_way.settle();
        state.store_mut(target).put(b"new", Some(b"8;"));
        durable(&mut state);
        assert!(!one_way.redo(&mut state));
        assert_eq!(found(&state).0, Some(b"8;".to_vec()), "what the candidate has made of it since stays");
    }
}
