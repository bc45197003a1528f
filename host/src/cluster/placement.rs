//! How many worker threads of each pipeline every node runs. Pure: from what is known of nodes and pipelines to numbers.
//!
//! Kafka's group spreads the partitions over the threads, whichever nodes they are on; so all that has to be decided is numbers. A
//! pipeline gets as many threads as have something to do, and the nodes let it have. The load of a node is that of its threads, for
//! each of its cores. Threads stay where they are unless a node has gone, or moving one makes the most loaded node clearly
//! less loaded: each thread that moves makes partitions stand still for a moment.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Load is compared in steps of this part of a thread's weight on one core.
const SCALE: u64 = 1_000_000;
/// A thread moves only when the node that it goes to stays this much, in percent, below the one that it leaves.
const MARGIN_PERCENT: u64 = 10;

/// A node that takes threads.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Capacity {
    /// Its name.
    pub node: String,
    /// Threads that it runs of one pipeline at most.
    pub threads: u32,
    /// Its cores.
    pub cores: u32,
}

/// A pipeline that is to run.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Demand {
    /// Threads that have something to do at most: its partitions.
    pub partitions: u32,
    /// What one of its threads needs, in thousandths of a core.
    pub weight: u32,
    /// Where its threads are now.
    pub current: Placement,
}

/// Threads of one pipeline, by node; nodes without one are not in it.
pub type Placement = BTreeMap<String, u32>;

/// Decides for all pipelines, in the order of `demands`. The same facts give the same answer.
#[must_use]
pub fn place(nodes: &[Capacity], demands: &[Demand]) -> Vec<Placement> {
    let mut table = Table::new(nodes, demands);
    for (pipeline, demand) in demands.iter().enumerate() {
        let room: u64 = nodes.iter().map(|node| u64::from(node.threads)).sum();
        let wanted = u64::from(demand.partitions).min(room);
        while table.total(pipeline) > wanted {
            table.remove_one(pipeline);
        }
        while table.total(pipeline) < wanted {
            table.add_one(pipeline);
        }
    }
    table.balance();
    table.placements()
}

/// Threads by pipeline and node.
struct Table<'a> {
    nodes: &'a [Capacity],
    weights: Vec<u64>,
    threads: Vec<Vec<u32>>,
}

impl<'a> Table<'a> {
    fn new(nodes: &'a [Capacity], demands: &[Demand]) -> Self {
        let now = |demand: &Demand, node: &Capacity| {
            demand.current.get(&node.node).map_or(0, |threads| (*threads).min(node.threads))
        };
        Self {
            nodes,
            weights: demands.iter().map(|demand| u64::from(demand.weight.max(1))).collect(),
            threads: demands.iter().map(|demand| nodes.iter().map(|node| now(demand, node)).collect()).collect(),
        }
    }

    fn total(&self, pipeline: usize) -> u64 {
        self.threads[pipeline].iter().map(|threads| u64::from(*threads)).sum()
    }

    fn per_core(&self, node: usize, weight: u64) -> u64 {
        weight * SCALE / u64::from(self.nodes[node].cores.max(1))
    }

    fn load(&self, node: usize) -> u64 {
        let weights = self.threads.iter().zip(&self.weights).map(|(threads, weight)| u64::from(threads[node]) * weight);
        self.per_core(node, weights.sum())
    }

    fn has_room(&self, pipeline: usize, node: usize) -> bool {
        self.threads[pipeline][node] < self.nodes[node].threads
    }

    /// One more where the load is lowest then; among equals where the pipeline has fewest, so that a node that dies takes as
    /// little of it along as can be.
    fn add_one(&mut self, pipeline: usize) {
        let weight = self.weights[pipeline];
        let nodes = (0..self.nodes.len()).filter(|&node| self.has_room(pipeline, node));
        let after = |&node: &usize| (self.load(node) + self.per_core(node, weight), self.threads[pipeline][node]);
        let best = nodes.min_by_key(|node| (after(node), &self.nodes[*node].node));
        self.threads[pipeline][best.expect("the total is below the room of all nodes")] += 1;
    }

    fn remove_one(&mut self, pipeline: usize) {
        let nodes = (0..self.nodes.len()).filter(|&node| self.threads[pipeline][node] > 0);
        let worst = nodes.max_by_key(|&node| (self.load(node), self.threads[pipeline][node], &self.nodes[node].node));
        self.threads[pipeline][worst.expect("the total is above what is wanted")] -= 1;
    }

    /// Moves threads one by one while it is worth it. Each move makes the more loaded of two nodes less loaded, and the other one
    /// less loaded than that was: so it ends.
    fn balance(&mut self) {
        while let Some((pipeline, from, to)) = self.best_move() {
            self.threads[pipeline][from] -= 1;
            self.threads[pipeline][to] += 1;
        }
    }

    /// Away from the most loaded node that a move helps; of its moves the one after which both nodes are least loaded.
    fn best_move(&self) -> Option<(usize, usize, usize)> {
        let mut best = None;
        for (pipeline, &weight) in self.weights.iter().enumerate() {
            for from in (0..self.nodes.len()).filter(|&node| self.threads[pipeline][node] > 0) {
                let before = self.load(from);
                for to in (0..self.nodes.len()).filter(|&node| node != from && self.has_room(pipeline, node)) {
                    let after = self.load(to) + self.per_core(to, weight);
                    let margin = before * MARGIN_PERCENT / 100;
                    if after + margin.max(1) <= before {
                        let left = before - self.per_core(from, weight).min(before);
                        let key = (Reverse(before), after.max(left), after);
                        best = best.into_iter().chain([(key, (pipeline, from, to))]).min();
                    }
                }
            }
        }
        best.map(|(_, chosen)| chosen)
    }

    fn placements(&self) -> Vec<Placement> {
        let of = |threads: &Vec<u32>| {
            let some = self.nodes.iter().zip(threads).filter(|(_, threads)| **threads > 0);
            some.map(|(node, threads)| (node.node.clone(), *threads)).collect()
        };
        self.threads.iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(name: &str, cores: u32) -> Capacity {
        Capacity { node: name.to_owned(), threads: cores, cores }
    }

    fn new(partitions: u32) -> Demand {
        Demand { partitions, weight: 1000, current: Placement::new() }
    }

    fn placement(threads: &[(&str, u32)]) -> Placement {
        threads.iter().map(|(node, threads)| ((*node).to_owned(), *threads)).collect()
    }

    #[test]
    fn threads_are_spread_by_cores() {
        let nodes = [node("a", 2), node("b", 4)];
        assert_eq!(place(&nodes, &[new(6)]), [placement(&[("a", 2), ("b", 4)])]);
        assert_eq!(place(&nodes, &[new(3)]), [placement(&[("a", 1), ("b", 2)])]);
        assert_eq!(place(&nodes, &[new(1), new(1)]), [placement(&[("b", 1)]), placement(&[("a", 1)])]);
    }

    #[test]
    fn a_busy_pipeline_gets_a_node_of_its_own() {
        let nodes = [node("a", 2), node("b", 2)];
        let quiet = |current| Demand { weight: 50, current, ..new(1) };
        let busy = Demand { weight: 900, current: placement(&[("a", 1)]), ..new(1) };
        let found = place(&nodes, &[quiet(placement(&[("a", 1)])), quiet(placement(&[("a", 1)])), busy]);
        assert_eq!(found[2], placement(&[("b", 1)]), "one move instead of two");
        assert_eq!((&found[0], &found[1]), (&placement(&[("a", 1)]), &placement(&[("a", 1)])));
    }

    #[test]
    fn without_nodes_nothing_is_placed() {
        assert_eq!(place(&[], &[new(4)]), [Placement::new()]);
        assert_eq!(place(&[node("a", 2)], &[]), Vec::<Placement>::new());
    }

    fn clusters() -> impl Strategy<Value = (Vec<Capacity>, Vec<Demand>)> {
        let nodes = prop::collection::vec((1u32..9, 1u32..17), 1..7);
        let demands = prop::collection::vec((1u32..24, prop::sample::select(vec![50u32, 300, 1000])), 1..6);
        (nodes, demands).prop_map(|(nodes, demands)| {
            let nodes = nodes.into_iter().enumerate();
            let nodes = nodes.map(|(at, (threads, cores))| Capacity { node: format!("node-{at}"), threads, cores });
            let demands = demands.into_iter().map(|(partitions, weight)| Demand { weight, ..new(partitions) });
            (nodes.collect(), demands.collect())
        })
    }

    fn equals() -> impl Strategy<Value = (Vec<Capacity>, u32)> {
        let node = |at| Capacity { node: format!("node-{at}"), threads: 64, cores: 4 };
        (1usize..7, 1u32..40).prop_map(move |(nodes, partitions)| ((0..nodes).map(node).collect(), partitions))
    }

    fn settled(nodes: &[Capacity], demands: Vec<Demand>) -> Vec<Demand> {
        let found = place(nodes, &demands);
        demands.into_iter().zip(found).map(|(demand, current)| Demand { current, ..demand }).collect()
    }

    fn moved(before: &[Demand], after: &[Placement]) -> Vec<(usize, String)> {
        let more = |(at, (demand, now)): (usize, (&Demand, &Placement))| {
            let grown = now.iter().filter(|(node, threads)| demand.current.get(*node).unwrap_or(&0) < threads);
            grown.map(|(node, _)| (at, node.clone())).collect::<Vec<_>>()
        };
        before.iter().zip(after).enumerate().flat_map(more).collect()
    }

    proptest! {
        #[test]
        fn every_pipeline_gets_what_it_can_use_and_no_node_more_than_it_takes((nodes, demands) in clusters()) {
            let room: u32 = nodes.iter().map(|node| node.threads).sum();
            for (demand, found) in demands.iter().zip(place(&nodes, &demands)) {
                prop_assert_eq!(found.values().sum::<u32>(), demand.partitions.min(room));
                for node in &nodes {
                    prop_assert!(found.get(&node.node).unwrap_or(&0) <= &node.threads);
                }
            }
        }

        #[test]
        fn what_is_placed_stays((nodes, demands) in clusters()) {
            let demands = settled(&nodes, demands);
            let again = place(&nodes, &demands);
            prop_assert!(moved(&demands, &again).is_empty());
        }

        #[test]
        fn no_thread_could_move_to_a_node_that_stays_clearly_below((nodes, demands) in clusters()) {
            let placements = place(&nodes, &demands);
            let demands: Vec<_> =
                demands.into_iter().zip(placements).map(|(demand, current)| Demand { current, ..demand }).collect();
            prop_assert_eq!(Table::new(&nodes, &demands).best_move(), None);
        }

        #[test]
        fn among_equal_nodes_only_the_threads_of_one_that_goes_move((nodes, partitions) in equals()) {
            prop_assume!(nodes.len() > 1);
            let demands = settled(&nodes, vec![new(partitions)]);
            for gone in 0..nodes.len() {
                let mut left = nodes.clone();
                let gone = left.remove(gone);
                let found = place(&left, &demands);
                prop_assert!(!found[0].contains_key(&gone.node));
                for (node, threads) in demands[0].current.iter().filter(|(node, _)| **node != gone.node) {
                    prop_assert!(found[0][node] >= *threads, "{node} lost a thread");
                }
            }
        }

        #[test]
        fn one_that_comes_takes_its_share_and_nobody_else_gets_more((nodes, partitions) in equals()) {
            let demands = settled(&nodes, vec![new(partitions)]);
            let more = [nodes, vec![Capacity { node: "new".into(), threads: 64, cores: 4 }]].concat();
            let found = place(&more, &demands);
            for (_, node) in moved(&demands, &found) {
                prop_assert_eq!(node, "new");
            }
            let share = found[0].get("new").copied().unwrap_or(0);
            prop_assert!(share >= partitions / u32::try_from(more.len()).unwrap() * 8 / 10, "{found:?}");
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter((nodes, demands) in clusters()) {
            let mut turned = nodes.clone();
            turned.reverse();
            let total = |found: Vec<Placement>| found.iter().map(|placement| placement.values().sum::<u32>()).collect::<Vec<_>>();
            prop_assert_eq!(total(place(&nodes, &demands)), total(place(&turned, &demands)));
            let sorted = |mut nodes: Vec<Capacity>| { nodes.sort_by(|a, b| a.node.cmp(&b.node)); nodes };
            prop_assert_eq!(place(&sorted(nodes), &demands), place(&sorted(turned), &demands));
        }
    }
}
