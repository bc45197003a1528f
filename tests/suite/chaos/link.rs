//! What lies between one node and the members of the ensemble: a proxy before each member, all of which fail together.
#![allow(clippy::unwrap_used)]

use sluicegate_harness::ensemble::Ensemble;

use crate::meta::proxy::Proxy;
use crate::state::runtime;

pub(super) struct Link(Vec<Proxy>);

impl Link {
    pub(super) fn to(ensemble: &Ensemble) -> Self {
        let proxy = |address: String| runtime().block_on(Proxy::start(&address)).unwrap();
        Self(ensemble.members().iter().map(|member| proxy(member.connect())).collect())
    }

    /// For the node's connect string.
    pub(super) fn connect(&self) -> String {
        self.0.iter().map(Proxy::address).collect::<Vec<_>>().join(",")
    }

    /// Nothing passes in either direction.
    pub(super) fn hold(&self) {
        self.0.iter().for_each(Proxy::hold);
    }

    /// Requests pass, answers are thrown away.
    pub(super) fn swallow_answers(&self) {
        self.0.iter().for_each(Proxy::swallow_answers);
    }

    /// Closes the connections, with what is held in them; new ones pass.
    pub(super) fn cut(&self) {
        self.0.iter().for_each(Proxy::cut);
        self.forward();
    }

    /// Everything passes, what was held first.
    pub(super) fn forward(&self) {
        self.0.iter().for_each(Proxy::forward);
    }
}
