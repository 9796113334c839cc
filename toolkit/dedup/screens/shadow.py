"""Shadows: short forms of unit rows whose product is never below the cosine, so that a screen may look at them instead.

With orthonormal directions P (p, d) a row x of length 1 is Px and a rest r of length sqrt(1 - |Px|^2), and by
Cauchy-Schwarz x.y = Px.Py + rx.ry <= Px.Py + |rx||ry|. The shadow of x is (Px, |rx|): p + 1 values, of length 1 again.
Its products cost a fraction of those of whole rows, and where the directions hold most of what rows have in common,
the bound of nearly every pair that is no edge stays below the limit. Where it does not, nothing is lost but time: such
a pair is looked at once more.

Promise: `cast` says how far a shadow may lie from the true one, every rounding counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from toolkit.dedup.join import Float32

UNIT = 2.0**-24  # unit round-off of float32


@dataclass(frozen=True, eq=False, slots=True)
class Directions:
    """Nearly orthonormal rows P, and how nearly."""

    vectors: Float32  # (p, d)
    skew: float  # bound on the spectral norm of P P^T - 1

    def __len__(self) -> int:
        return len(self.vectors)

    def first(self, count: int) -> Directions:
        """Return the first ones alone, which are no less orthonormal."""
        return Directions(self.vectors[:count], self.skew)


def principal(unit: Float32, count: int) -> Directions:
    """Return the `count` principal directions of a sample of unit rows (m, d), most important first.

    They are not centred: what all rows have in common (CLIP's narrow cone) is the first, and costs one value.
    """
    moment = (unit.T @ unit).astype(np.float64)
    vectors = np.ascontiguousarray(np.linalg.eigh(moment)[1].T[::-1][:count], dtype=np.float32)
    gram = vectors.astype(np.float64) @ vectors.T
    gram[np.diag_indices_from(gram)] -= 1.0
    return Directions(vectors, float(np.linalg.norm(gram)) + 1e-9)  # Frobenius, and what float64 may have lost


def off(directions: Directions | None, dim: int) -> float:
    """Return D, how far computed products with the directions may lie from the true ones, as a vector (`cast`)."""
    return 0.0 if directions is None else 1.01 * len(directions) ** 0.5 * (dim + 8) * UNIT


def error(directions: Directions | None, dim: int) -> float:
    """Return e, what the shadows of rows of `dim` values may be off (`cast`)."""
    if directions is None:
        return 4.0 * UNIT
    far = off(directions, dim)
    return far + far**2 + directions.skew


def told(directions: Directions | None, dim: int, how: str, leaves: float | None) -> str:
    """Say what is compared of rows of `dim` values, how, and, where known, the share of pairs that a trial left."""
    what = "whole rows" if directions is None else f"shadows of {len(directions) + 1}"
    left = "" if leaves is None else f", {leaving(leaves)}"
    return f"{what} of {dim} values {how}{left}"


def leaving(share: float) -> str:
    """Say how many pairs shadows leave, in one digit: what many units tell is to be the same where it is alike."""
    return f"leaving {float(f'{1e6 * share:.1g}'):,.7g} of a million pairs"


def cast(unit: Float32, directions: Directions | None) -> tuple[Float32, float]:
    """Return shadows (m, p + 1) of rows (m, d), and their error e; without directions the shadow is the row.

    `unit` holds rows x of length 1 as Slab.unit makes them, off by less than 3u each, u = 2^-24. For two rows x, y and
    their shadows s, t: x.y <= s.t + e (|s| + |t|), and 1 <= |s| <= 1 + 2e but for some u.

    Proof. Let E = |P P^T - 1|. x.y - Px.Py = x(1 - P^T P)y, and 1 - P^T P is the projector N off the rows of P, but for
    a part of norm E; so it is at most |Nx||Ny| + E. |Nx|^2 = 1 - |x's projection|^2 <= 1 - |Px|^2 / (1 + E). A sum of d
    float32 products in any order is off by at most 1.01 (d + 8) u |a||b| (join.margin), rounding of the rows included;
    so the computed z lies within D = 1.01 sqrt(p) (d + 8) u of Px. The last value is taken from the shortest Px that z
    allows, so it is never below |Nx|. Together x.y <= s.t + D |t| + D |s| + D^2 + E, hence e = D + D^2 + E.
    """
    if directions is None:
        return unit, error(None, unit.shape[1])
    count, dim = directions.vectors.shape
    shadow = np.empty((len(unit), count + 1), dtype=np.float32)
    shadow[:, :-1] = unit @ directions.vectors.T
    lengths = np.sqrt(np.einsum("ij,ij->i", shadow[:, :-1], shadow[:, :-1], dtype=np.float64))
    short = np.maximum(0.0, lengths - off(directions, dim) - 1e-12) ** 2 / (1.0 + directions.skew)
    rest = np.sqrt(np.maximum(0.0, 1.0 - short)).astype(np.float32)
    shadow[:, -1] = np.nextafter(rest, np.float32(2.0))
    return shadow, error(directions, dim)
