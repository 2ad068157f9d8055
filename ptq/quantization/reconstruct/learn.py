"""learn: weights, biases and scales moved by gradients until the quantized model does what the float one does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from ptq.data.batch import Batch, as_batch
from ptq.data.samples import Samples
from ptq.quantization.reconstruct.network import FEW, Network

if TYPE_CHECKING:
    from torch import Tensor

_HELD_OUT = 8  # one sample in so many is not learned from
_SEED = 0
_PARTS = 2  # of a batch, side by side: as many however many cores there are, so that sums are the same


@dataclass(frozen=True)
class Recipe:
    """How to learn.

    Parameters
    ----------
    passes: over the samples; fewer for a large model, see `work`.
    work: multiplications of the float model that all passes together may cost.
    batch: samples a step.
    step: how far a weight may go in one step of Adam, in steps of its grid; a bias as far in 256ths of its range.
    growth: the same of the logarithm of a scale.
    """

    passes: int = 20
    work: float = 4e11
    batch: int = 32
    step: float = 0.01
    growth: float = 1e-3


@dataclass(frozen=True)
class Learned:
    """The mean error on samples that were not learned from, before and after; how many steps; whether it was kept."""

    before: float
    after: float
    steps: int

    @property
    def better(self) -> bool:
        """Whether what was learned is to be kept."""
        return self.after < self.before


def learn(network: Network, samples: Samples, recipe: Recipe) -> Learned:
    """Move the network's weights, biases and the scales of narrow activations; no labels are read.

    The loss of every rounded tensor is its squared error over its variance, all alike; of a Softmax at the end, the
    Kullback-Leibler divergence beside. The same samples give the same bits, whatever the number of cores.
    """
    import torch

    given = _batches(samples, recipe.batch)
    generator = np.random.default_rng(_SEED)
    held = given[::_HELD_OUT] if len(given) >= _HELD_OUT else given[:1]
    taken = [each for index, each in enumerate(given) if index % _HELD_OUT] if len(given) >= _HELD_OUT else given
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(_PARTS, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        torch.set_num_threads(1)
        try:
            loss = _Loss(network, held[0])
            before = loss.mean(held)
            passes = max(1, min(recipe.passes, int(recipe.work / (loss.cost * sum(map(_size, taken))))))
            steps, done = passes * len(taken), 0
            groups = _groups(network, recipe)
            optimizer = torch.optim.Adam(groups)
            parameters = [each for group in groups for each in group["params"]]
            for _ in range(passes):
                for batch in _shuffled(taken, generator):
                    for group in optimizer.param_groups:
                        group["lr"] = group["most"] * (1 + cos(pi * done / steps)) / 2
                    for parameter, slope in zip(parameters, loss.slopes(batch, parameters, pool), strict=True):
                        parameter.grad = slope
                    optimizer.step()
                    done += 1
            return Learned(before, loss.mean(held), done)
        finally:
            torch.set_num_threads(threads)


def _groups(network: Network, recipe: Recipe) -> list[dict[str, Any]]:
    weights = [each.steps for each in network.weights.values()] + list(network.biases.values())
    scales = [each.growth for each in network.weights.values() if each.quantizer.bits < FEW]
    scales += [each.growth for each in network.activations.values() if each.quantizer.bits < FEW]
    groups = [{"params": weights, "most": recipe.step, "lr": recipe.step}]
    return groups + ([{"params": scales, "most": recipe.growth, "lr": recipe.growth}] if scales else [])


class _Loss:
    """How far a quantized model is from the float one."""

    def __init__(self, network: Network, batch: dict[str, Tensor]) -> None:
        import torch

        self.network = network
        with torch.no_grad():
            exact = network.exact(batch)
        graph = network.graph
        ends = [graph.producer[each] for each in sorted(graph.outputs) if each in graph.producer]
        self.ends = [(node.input[0], node.output[0]) for node in ends if node.op_type == "Softmax"]
        inputs = {each.name for each in graph.inputs}
        behind = {output for _, output in self.ends}
        names = {*network.points, *graph.outputs} - inputs - behind
        self.weights = {
            name: 1 / max(float(exact[name].var()), 1e-12) for name in sorted(names) if exact[name].is_floating_point()
        }
        self.cost = sum(
            exact[name].numel() * layer.rows.shape[1] / _size(batch) for name, layer in network.layers.items()
        )

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        import torch
        from torch.nn import functional as f

        with torch.no_grad():
            exact = self.network.exact(batch)
        seen = self.network.rounded(batch)
        loss = sum(
            ((seen[name] - exact[name]) ** 2).mean() * weight / len(self.weights)
            for name, weight in self.weights.items()
        )
        for logits, _ in self.ends:
            have, want = f.log_softmax(seen[logits], -1), f.log_softmax(exact[logits], -1)
            loss = loss + f.kl_div(have, want, log_target=True, reduction="none").sum(-1).mean()
        return loss

    def slopes(self, batch: dict[str, Tensor], parameters: list[Tensor], pool: ThreadPoolExecutor) -> list[Tensor]:
        """The gradient of every parameter: parts of the batch side by side, added up in their order."""
        import torch

        size = _size(batch)
        cuts = [size * each // _PARTS for each in range(_PARTS + 1)]
        parts = [{name: x[a:b] for name, x in batch.items()} for a, b in zip(cuts, cuts[1:], strict=False) if b > a]

        def of(part: dict[str, Tensor]) -> list[Tensor]:
            found = torch.autograd.grad(self(part), parameters, allow_unused=True)
            share = _size(part) / size
            return [torch.zeros_like(p) if g is None else g * share for p, g in zip(parameters, found, strict=True)]

        first, *others = pool.map(of, parts)
        for other in others:
            first = [a + b for a, b in zip(first, other, strict=True)]
        return first

    def mean(self, batches: list[dict[str, Tensor]]) -> float:
        """The mean loss a sample."""
        import torch

        with torch.no_grad():
            return sum(float(self(each)) * _size(each) for each in batches) / sum(map(_size, batches))


def _size(batch: Mapping[str, Tensor]) -> int:
    return len(next(iter(batch.values())))


def _batches(samples: Samples, size: int) -> list[dict[str, Tensor]]:
    import torch

    return [
        {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in as_batch(each).items()}
        for each in samples.batches(size)
    ]


def _shuffled(batches: list[dict[str, Tensor]], generator: np.random.Generator) -> Iterator[dict[str, Tensor]]:
    """The samples in another order where all have one shape, else the batches."""
    import torch

    shapes = {tuple((name, x.shape[1:]) for name, x in each.items()) for each in batches}
    if len(shapes) > 1:
        yield from (batches[index] for index in generator.permutation(len(batches)))
        return
    whole = {name: torch.cat([each[name] for each in batches]) for name in batches[0]}
    size, order = max(map(_size, batches)), torch.from_numpy(generator.permutation(_size(whole)))
    for start in range(0, len(batches) * size, size):
        if len(chosen := order[start : start + size]):
            yield {name: x[chosen] for name, x in whole.items()}
