"""Rounds of a federation: clients train from what they received, a server merges what they send.

A run goes on after any round to the very same numbers: all that is random in round r of client i is drawn from
(seed, r, i), and the state holds every client's network, mask and optimiser.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from amalgam.tasks.merging.clients.data import Client, Hits
from amalgam.tasks.merging.clients.networks import Masked, distance
from amalgam.tasks.merging.clients.rules import FedProx, FedPub, Rule
from amalgam.tasks.training.seeding import derived

State: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class LocalTraining:
    """What a client does with what it receives."""

    rule: Rule
    network: nn.Module
    """As all clients begin."""
    probe: Any
    """What embeddings are the mean output on; given to `embed` of a network that has it."""
    epochs: int
    learning_rate: float
    seed: int

    def start(self) -> State:
        """The state of a client before the first round: what it received, its masks, its optimiser."""
        learner = self._learner()
        return {"learner": learner.state_dict(), "received": self._weights(learner), "optimizer": None}

    def train(self, round_number: int, numbered: tuple[int, Client, State]) -> tuple[State, Tensor, list[Hits]]:
        """A client's state after a round, its embedding, and its hits by part."""
        number, client, state = numbered
        learner = self._learner()
        learner.load_state_dict(state["learner"])
        self._network(learner).load_state_dict(state["received"])
        optimizer = torch.optim.Adam(learner.parameters(), lr=self.learning_rate, weight_decay=1e-6)
        if state["optimizer"] is not None:
            optimizer.load_state_dict(state["optimizer"])
        generator = torch.Generator().manual_seed(derived(self.seed, round_number, number))
        for _ in range(self.epochs):
            for loss in client.losses(learner, generator):
                optimizer.zero_grad()
                (loss + self._penalty(learner, state["received"])).backward()
                optimizer.step()
        with torch.no_grad():
            tested = self._tested(learner)
            hits = [client.hits(tested, part) for part in range(3)]
            embedding = getattr(tested, "embed", tested)(self.probe).double().mean(0)
        after = {"learner": learner.state_dict(), "optimizer": optimizer.state_dict()}
        return after | {"received": self._weights(learner)}, embedding, hits

    def _learner(self) -> nn.Module:
        network = copy.deepcopy(self.network)
        return Masked(network) if self.rule.masked else network

    def _network(self, learner: nn.Module) -> nn.Module:
        return learner.network if isinstance(learner, Masked) else learner

    def _weights(self, learner: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._network(learner).state_dict().items()}

    def _penalty(self, learner: nn.Module, received: dict[str, Tensor]) -> Tensor | float:
        if isinstance(self.rule, FedPub) and isinstance(learner, Masked):
            return learner.penalty(self.rule.sparsity, self.rule.proximity, received)
        if isinstance(self.rule, FedProx):
            return self.rule.proximity / 2 * distance(learner, received).square()
        return 0.0

    def _tested(self, learner: nn.Module) -> nn.Module:
        """The network that is tested and embedded: with small masks at 0."""
        if not isinstance(learner, Masked):
            return learner.eval()
        assert isinstance(self.rule, FedPub)
        weights = learner.effective(self.rule.sparsity)
        tested = self._network(self._learner())
        tested.load_state_dict({**learner.network.state_dict(), **weights})
        return tested.eval()


@dataclass
class Federation:
    """A federation after `len(history)` rounds; a run of `tasks.training.epochs.run_epochs`."""

    clients: Sequence[Client]
    local: LocalTraining
    rounds: int
    spread: Callable[..., Iterable[Any]] = map
    """Calls a function on every client, such as by tasks of a cluster, and gives the results in their order."""
    states: list[State] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.states = self.states or [self.local.start() for _ in self.clients]

    @property
    def is_finished(self) -> bool:
        """Whether no round is left."""
        return len(self.history) == self.rounds

    def advance(self) -> None:
        """One round: every client trains, the server merges."""
        numbered = zip(range(len(self.clients)), self.clients, self.states, strict=True)
        found = list(self.spread(partial(self.local.train, len(self.history) + 1), list(numbered)))
        states, embeddings, hits = (list(each) for each in zip(*found, strict=True))
        sizes = [client.size for client in self.clients]
        merged = self.local.rule.merged([state["received"] for state in states], sizes, embeddings)
        self.states = [state | {"received": dict(one)} for state, one in zip(states, merged, strict=True)]
        named = zip(("train", "validation", "test"), zip(*hits, strict=True), strict=True)
        self.history.append({f"{part}/accuracy": _share(each) for part, each in named})

    def state(self) -> State:
        """All that the next round reads."""
        return {"states": self.states, "history": self.history}

    def restore(self, state: State) -> None:
        """Become the federation that gave `state`."""
        self.states, self.history = list(state["states"]), list(state["history"])

    @property
    def best(self) -> dict[str, float]:
        """The metrics of the round of highest validation accuracy, the first of equals, with its number."""
        accuracies = [metrics["validation/accuracy"] for metrics in self.history]
        place = accuracies.index(max(accuracies))
        return self.history[place] | {"round": float(place + 1)}


def _share(hits: Sequence[Hits]) -> float:
    return sum(one for one, _ in hits) / max(1, sum(count for _, count in hits))
