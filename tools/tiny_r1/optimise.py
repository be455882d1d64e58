"""Muon for matrices and Adam for the rest, in tensor operations alone so that a whole step replays as a CUDA graph."""
import torch

NS = (3.4445, -4.7750, 2.0315)  # quintic coefficients of Muon's Newton-Schulz iteration (Keller Jordan, 2024)


def orthogonalise(g, turns=5):
    """The nearest orthogonal matrices of a batch [n, rows, cols], roughly, in bfloat16."""
    x = g.bfloat16()
    flip = x.shape[-2] > x.shape[-1]
    if flip:
        x = x.mT
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(turns):
        a = x @ x.mT
        x = NS[0] * x + (NS[1] * a + NS[2] * a @ a) @ x
    return (x.mT if flip else x).float()


class Muon:
    """Momentum 0.95 (Nesterov), orthogonal updates scaled by sqrt(max(1, rows / cols)), decoupled decay. Matrices of one
    shape go through one batched iteration; a stack of experts counts as that many matrices."""

    def __init__(self, parameters, momentum=0.95, decay=0.1):
        self.momentum, self.decay = momentum, decay
        self.groups = {}
        for p in parameters:
            self.groups.setdefault(tuple(p.shape[-2:]), []).append(p)
        self.state = {id(p): torch.zeros_like(p) for g in self.groups.values() for p in g}

    def step(self, lr):
        for shape, group in self.groups.items():
            grads = []
            for p in group:
                m = self.state[id(p)]
                m.mul_(self.momentum).add_(p.grad)
                grads.append((p.grad + self.momentum * m).reshape(-1, *shape))
            update = orthogonalise(torch.cat(grads)) * max(1.0, shape[0] / shape[1]) ** 0.5
            at = 0
            for p in group:
                n = p.numel() // (shape[0] * shape[1])
                p.mul_(1 - lr * self.decay).sub_(update[at:at + n].view_as(p) * lr)
                at += n


class Adam:
    def __init__(self, parameters, betas=(0.9, 0.95), eps=1e-8):
        self.parameters, self.betas, self.eps = list(parameters), betas, eps
        self.first = [torch.zeros_like(p) for p in self.parameters]
        self.second = [torch.zeros_like(p) for p in self.parameters]
        self.power = torch.ones(2, device=self.parameters[0].device)
        self.factors = torch.tensor(betas, device=self.parameters[0].device)

    def step(self, lr):
        self.power.mul_(self.factors)
        for p, m, v in zip(self.parameters, self.first, self.second):
            m.lerp_(p.grad, 1 - self.betas[0])
            v.lerp_(p.grad.square(), 1 - self.betas[1])
            p.sub_(lr * (m / (1 - self.power[0])) / ((v / (1 - self.power[1])).sqrt() + self.eps))
