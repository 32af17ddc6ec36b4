"""Where to look next in a space of tunables: Optuna's TPE sampler, fed with everything measured so far.

With a dozen attempts to spend on half a dozen tunables, sampling all of them at once wastes attempts on mixtures of
good and bad values. So until each value has been seen once, one tunable is varied, the one with most values unseen;
afterwards the sampler is asked for all tunables, or for two of them, by the toss of a coin. The others keep the values
of the best configuration measured, promoted or not: where noise is large, gains too small to be promoted one by one
add up to one that is not.
"""

from __future__ import annotations

import math
import random
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution

from pytest_avo.core.kernel import Literal, Tunable

Configuration = Mapping[str, Literal]
STARTUP_TRIALS = 3
"""Measured configurations below which the sampler draws uniformly."""
ASKS = 20
"""Questions to the sampler before the first untried configuration is taken instead."""

# Optuna announces every study on stderr, which belongs to the run's own progress.
optuna.logging.set_verbosity(optuna.logging.ERROR)
_warnings_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Measured:
    """A configuration and its log-ratio to the seed; None where it was refused (incorrect, crashed, ...)."""

    values: Configuration
    score: float | None


def next_configuration(
    tunables: Sequence[Tunable],
    measured: Sequence[Measured],
    *,
    incumbent: Configuration,
    is_tried: Callable[[Configuration], bool],
    seed: int,
) -> Configuration | None:
    """A configuration that `is_tried` does not know, or None: the same for the same arguments."""
    chance = random.Random(seed)
    base = _best(measured, incumbent)
    space = {tunable.name: _distribution(tunable) for tunable in tunables}
    study = _study(tunables, measured, space, seed)
    unseen = {tunable.name: _unseen(tunable, measured, base, is_tried) for tunable in tunables}
    for _ in range(ASKS):
        free = _free(unseen, chance)
        study.enqueue_trial({t.name: position(t, base[t.name]) for t in tunables if t.name not in free})
        answer = study.ask(space).params
        configuration = {tunable.name: tunable.choices[answer[tunable.name]] for tunable in tunables}
        if not is_tried(configuration):
            return configuration
    return next((configuration for configuration in _every(tunables, chance) if not is_tried(configuration)), None)


def position(tunable: Tunable, value: Literal) -> int:
    """Index of a value among a tunable's choices, 1 and True told apart; ValueError when it is none of them."""
    for index, choice in enumerate(tunable.choices):
        if choice == value and type(choice) is type(value):
            return index
    raise ValueError(f"{tunable.name}: expected one of {list(tunable.choices)}, got {value!r}")


def _best(measured: Sequence[Measured], incumbent: Configuration) -> Configuration:
    """The configuration with the highest score; the incumbent while nothing has one."""
    scored = [(one.score, one.values) for one in measured if one.score is not None]
    return max(scored, key=lambda pair: pair[0])[1] if scored else incumbent


def _unseen(
    tunable: Tunable, measured: Sequence[Measured], base: Configuration, is_tried: Callable[[Configuration], bool]
) -> float:
    """Share of a tunable's values that no measurement has, and that were not tried on the base either."""
    seen = {position(tunable, one.values[tunable.name]) for one in measured}
    unseen = [
        choice
        for index, choice in enumerate(tunable.choices)
        if index not in seen and not is_tried({**base, tunable.name: choice})
    ]
    return len(unseen) / len(tunable.choices)


def _free(unseen: Mapping[str, float], chance: random.Random) -> frozenset[str]:
    """The tunables to vary in one question; the others keep the base's value."""
    most = max(unseen.values())
    if most > 0:
        return frozenset({chance.choice([name for name, share in unseen.items() if share == most])})
    if chance.random() < 0.5:
        return frozenset(unseen)
    return frozenset(chance.sample(list(unseen), min(len(unseen), 2)))


def _distribution(tunable: Tunable) -> BaseDistribution:
    # By position, since Optuna takes 1 and True for the same choice. Categorical, since a search over block sizes as
    # ordered integers found less in a dozen attempts: the best value is often at an end, next to a poor one.
    return CategoricalDistribution(range(len(tunable.choices)))


def _study(
    tunables: Sequence[Tunable], measured: Sequence[Measured], space: Mapping[str, BaseDistribution], seed: int
) -> optuna.Study:
    # Some versions of Optuna call these arguments experimental; the filters are the process's, hence the lock.
    with _warnings_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(
            seed=seed % 2**32, n_startup_trials=STARTUP_TRIALS, multivariate=True, constant_liar=True
        )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for one in measured:
        study.add_trial(
            optuna.trial.create_trial(
                params={tunable.name: position(tunable, one.values[tunable.name]) for tunable in tunables},
                distributions=dict(space),
                value=one.score,
                # TPE leaves failed trials out and ranks pruned ones last: it is to learn from a wrong configuration.
                state=optuna.trial.TrialState.PRUNED if one.score is None else optuna.trial.TrialState.COMPLETE,
            )
        )
    return study


def _every(tunables: Sequence[Tunable], chance: random.Random) -> Iterator[Configuration]:
    """Every configuration once, in an order set by `chance`, without holding them all."""
    size = math.prod(len(tunable.choices) for tunable in tunables)
    start, stride = chance.randrange(size), chance.randrange(size)
    while math.gcd(stride, size) != 1:
        stride += 1
    for step in range(size):
        number = (start + step * stride) % size
        configuration: dict[str, Literal] = {}
        for tunable in tunables:
            number, index = divmod(number, len(tunable.choices))
            configuration[tunable.name] = tunable.choices[index]
        yield configuration
