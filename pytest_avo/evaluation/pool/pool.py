"""The evaluator of a run: a queue in front of workers, one per device, on this host or others.

A worker that is lost in the middle of a request loses nothing: what it answered is kept, the rest goes to the next
worker that is free. It is connected anew, at once and then every minute, for as long as another one is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future

from pytest_avo.core.evaluation import Evaluation, EvaluationRequest
from pytest_avo.core.fingerprint import Fingerprint
from pytest_avo.evaluation.evaluator import Work
from pytest_avo.evaluation.pool.feeder import Feeder
from pytest_avo.evaluation.pool.gateway import host_of
from pytest_avo.evaluation.pool.jobs import Job, Jobs
from pytest_avo.evaluation.pool.roster import Roster
from pytest_avo.evaluation.worker_messages import Hello, WorkerConfig


class Pool:
    """Evaluates requests on its workers; implements Evaluator.

    The workers of a host deal its devices among themselves, in the order of their specs, beginning with `first_device`.
    """

    def __init__(
        self,
        specs: Sequence[str],
        *,
        layers: bool = True,
        required: Sequence[str] = (),
        first_device: int = 0,
        dealing: int = 1,
        kind: Fingerprint | None = None,
        spins: bool | None = None,
    ) -> None:
        """layers: confine kernels; required: layers without which a worker is refused; kind: see Roster.

        dealing: workers of this machine that deal its devices, if other pools have some. spins: see WorkerConfig.
        """
        self._jobs = Jobs(workers=len(specs))
        self._roster = Roster(self._jobs, required=required, kind=kind)
        self._workers: list[Feeder] = []
        hosts = [host_of(spec) for spec in specs]
        for index, spec in enumerate(specs):
            config = WorkerConfig(
                worker=f"gw{index}",
                layers=layers,
                device=first_device + hosts[:index].count(hosts[index]),
                target=kind.target if kind is not None else "",
                workers=hosts.count(hosts[index]),
                dealing=max(dealing, hosts.count(hosts[index])),
                spins=spins,
            )
            self._workers.append(Feeder(spec, config, jobs=self._jobs, roster=self._roster))
        for worker in self._workers:
            worker.start()

    def submit(self, request: EvaluationRequest) -> Mapping[str, Future[Evaluation]]:
        job = Job(request)
        self._jobs.put(job)
        return job.futures

    def meet(self) -> Hello:
        """Start all workers and wait for them; the first in their order that can be used introduces itself.

        EvaluatorError where none can be used.
        """
        self._jobs.wanted.set()
        return self._roster.first_ready()

    def doing(self) -> str:
        busy = [worker.doing for worker in self._workers if worker.doing != "idle"]
        return "; ".join(busy) or "idle"

    def news(self) -> list[str]:
        return self._roster.news()

    def work(self) -> list[Work]:
        return [worker.work() for worker in self._workers]

    def close(self) -> None:
        self._jobs.close()
        self._roster.dismiss()
        for worker in self._workers:
            worker.drop()
        for worker in self._workers:
            worker.join(timeout=5.0)
