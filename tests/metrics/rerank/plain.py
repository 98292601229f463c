"""The definitions of the papers as plain loops over dense lists, in float64."""

import math

import numpy as np


def unit(rows):
    return [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in np.asarray(rows, float).tolist()]


def cosines(query, gallery):
    """Returns a list of rows of cosines."""
    gallery = unit(gallery)
    return [[sum(a * b for a, b in zip(q, g, strict=True)) for g in gallery] for q in unit(query)]


def best(scores, k):
    """Returns the indices of the k highest scores, ties by index."""
    return sorted(range(len(scores)), key=lambda j: (-scores[j], j))[:k]


def nnn(query, gallery, bank, k, alpha):
    scores = cosines(query, gallery)
    to_bank = cosines(gallery, bank)
    for row in scores:
        for j, sims in enumerate(to_bank):
            nearest = sorted(sims, reverse=True)[:k]
            row[j] -= alpha * sum(nearest) / len(nearest) if nearest else 0
    return scores


def inverted_softmax(query, gallery, bank, temperature):
    """Returns the probabilities eta."""
    to_bank = cosines(bank, gallery)
    return [
        [
            math.exp(s / temperature) / sum(math.exp(row[j] / temperature) for row in to_bank)
            for j, s in enumerate(scores)
        ]
        for scores in cosines(query, gallery)
    ]


def qb_norm(query, gallery, bank, temperature):
    """Returns eta for queries whose best image is the best of a caption of the bank, else cosines."""
    hubs = {best(row, 1)[0] for row in cosines(bank, gallery)}
    normed = inverted_softmax(query, gallery, bank, temperature)
    return [normed[i] if best(row, 1)[0] in hubs else row for i, row in enumerate(cosines(query, gallery))]


def dual_softmax(query, gallery, bank, temperature):
    scores, out = cosines(query, gallery), []
    others = None if bank is None else cosines(bank, gallery)
    for row in scores:
        out.append([])
        for j, s in enumerate(row):
            column = [r[j] for r in (scores if others is None else [row, *others])]
            out[-1].append(s * math.exp(s / temperature) / sum(math.exp(c / temperature) for c in column))
    return out


def expanded_queries(query, gallery, k, alpha):
    scores, g = cosines(query, gallery), unit(gallery)
    changed = []
    for q, row in zip(unit(query), scores, strict=True):
        total = list(q)
        for j in best(row, k):
            for d in range(len(total)):
                total[d] += max(row[j], 0) ** alpha * g[j][d]
        changed.append(total)
    return cosines(changed, gallery)


def fused_neighbors(query, gallery, k, weight):
    g, scores, changed = unit(gallery), cosines(gallery, gallery), []
    for i, row in enumerate(scores):
        others = [j for j in best(row, len(row)) if j != i][:k]
        total = list(g[i])
        for j in others:
            for d in range(len(total)):
                total[d] += weight * g[j][d] / len(others)
        changed.append(total)
    return cosines(query, changed)


def k_reciprocal(query, gallery, k1, k2, weight):
    """Returns -d*, by sets and dictionaries as in the paper's section 3."""
    images, texts = cosines(gallery, gallery), cosines(query, gallery)
    size = len(images)

    def neighbors(g, k):
        return [g, *[j for j in best(images[g], size) if j != g]][:k]

    def reciprocal(g, k):
        return {j for j in neighbors(g, k) if g in neighbors(j, k)}

    def expand(members):
        grown = set(members)
        for j in members:
            half = reciprocal(j, math.ceil(k1 / 2))
            if len(half & members) >= 2 / 3 * len(half) - 1e-9:
                grown |= half
        return grown

    def encode(members, row):
        raw = {j: math.exp(-(1 - row[j])) for j in members}
        return {j: value / sum(raw.values()) for j, value in raw.items()}

    def average(codes):
        return {j: sum(code.get(j, 0) for code in codes) / len(codes) for code in codes for j in code}

    of_images = [encode(expand(reciprocal(g, k1)), images[g]) for g in range(size)]
    of_texts = [encode(expand(set(best(row, k1))), row) for row in texts]
    averaged = [average([of_images[j] for j in neighbors(g, k2)]) for g in range(size)]
    out = []
    for code, row in zip(of_texts, texts, strict=True):
        own = average([code, *[of_images[j] for j in best(row, k2 - 1)]])
        out.append([])
        for other, s in zip(averaged, row, strict=True):
            keys = set(own) | set(other)
            low = sum(min(own.get(j, 0), other.get(j, 0)) for j in keys)
            high = sum(max(own.get(j, 0), other.get(j, 0)) for j in keys)
            out[-1].append(-(weight * (1 - low / high) + (1 - weight) * (1 - s)))
    return out
