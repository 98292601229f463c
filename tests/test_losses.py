"""Each loss against loops in float64, with identities that occur twice; some numbers by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpr_jax import losses

B, E = 5, 3
PIDS = np.array([2, 0, 2, 1, 0])
ANGLES = ((0.0, 0.2, 0.35), (0.25, 0.1, 0.15))  # of images and texts in one plane, radians


def unit(v):
    return v / math.sqrt(sum(x * x for x in v))


def log_softmax(row):
    top = max(row)
    return row - top - math.log(sum(math.exp(x - top) for x in row))


def divergence(logits, target):
    total = 0.0
    for row, wanted in zip(logits, target, strict=True):
        for log_p, q in zip(log_softmax(row), wanted, strict=True):
            total += math.exp(log_p) * (log_p - math.log(q + 1e-8))
    return total / len(logits)


def matches(pids, power):
    """Returns 1 where identities agree, each row divided by its sum (power 1) or its length (power 2)."""
    same = np.array([[float(a == b) for b in pids] for a in pids])
    return np.array([row / sum(row) ** (1 / power) for row in same])


def sdm(images, texts, pids, scale=50.0):
    by_text = np.array([[scale * unit(t) @ unit(i) for i in images] for t in texts])
    return divergence(by_text, matches(pids, 1)) + divergence(by_text.T, matches(pids, 1))


def itc(images, texts, pids, scale=50.0):
    total = 0.0
    for n in range(len(pids)):
        total -= log_softmax(np.array([scale * unit(images[n]) @ unit(t) for t in texts]))[n]
        total -= log_softmax(np.array([scale * unit(texts[n]) @ unit(i) for i in images]))[n]
    return total / len(pids) / 2


def cmpm(images, texts, pids):
    target = matches(pids, 2)
    return divergence(np.array([[i @ unit(t) for t in texts] for i in images]), target) + divergence(
        np.array([[t @ unit(i) for i in images] for t in texts]), target
    )


def triplet(images, texts, pids, margin=1.0):
    distance = np.array([[math.dist(i, t) for t in texts] for i in images])
    total = 0.0
    for n in range(len(pids)):
        others = [m for m in range(len(pids)) if m != n]
        total += max(0.0, margin + distance[n, n] - min(distance[n, m] for m in others))
        total += max(0.0, margin + distance[n, n] - min(distance[m, n] for m in others))
    return total / len(pids)


def tal(images, texts, pids, margin=0.1, tau=0.015):
    cosine = np.array([[unit(i) @ unit(t) for t in texts] for i in images])
    total = 0.0
    for table in (cosine, cosine.T):
        for n, row in enumerate(table):
            right, wrong = row[pids == pids[n]], row[pids != pids[n]]
            weights = np.exp((right - right.max()) / tau)
            positive = (weights / weights.sum()) @ right
            if len(wrong):
                top = wrong.max()
                negative = top + tau * math.log(sum(math.exp((x - top) / tau) for x in wrong))
                total += max(0.0, margin - positive + negative)
    return total


def sigmoid(images, texts, pids, slope=10.0, offset=-10.0):
    total = 0.0
    for n, m in np.ndindex(len(pids), len(pids)):
        logit = slope * unit(images[n]) @ unit(texts[m]) + offset
        total += math.log(1 + math.exp(-logit if pids[n] == pids[m] else logit))
    return total / len(pids)


ORACLES = {"sdm": sdm, "itc": itc, "cmpm": cmpm, "triplet": triplet, "tal": tal, "sigmoid": sigmoid}


def distill_feats(images, texts, teacher_images, teacher_texts):
    total = 0.0
    for ours, theirs in ((images, teacher_images), (texts, teacher_texts)):
        total += sum(1 - unit(a) @ unit(b) for a, b in zip(ours, theirs, strict=True)) / len(ours)
    return total


def distill_scores(images, texts, teacher_images, teacher_texts, scale=50.0):
    tables = [
        np.array([[scale * unit(t) @ unit(i) for i in pair[0]] for t in pair[1]])
        for pair in ((images, texts), (teacher_images, teacher_texts))
    ]
    total = 0.0
    for ours, theirs in (tables, (tables[0].T, tables[1].T)):
        for row, target in zip(ours, theirs, strict=True):
            for log_p, log_q in zip(log_softmax(row), log_softmax(target), strict=True):
                total += math.exp(log_q) * (log_q - log_p)
    return total / len(images)


DISTILLATION = {"feats": distill_feats, "scores": distill_scores}
by_name = pytest.mark.parametrize("name", ORACLES)


@functools.cache
def jitted(name):
    """Returns the loss and its gradients in both features, compiled once for all tests."""
    return jax.jit(jax.value_and_grad(losses.BY_NAME[name], argnums=(0, 1)))


def features(seed, size=B, scale=1.0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(size, E)), scale * rng.normal(size=(size, E))


def test_every_loss_has_an_oracle():
    """'id' also has a classifier, and its own test."""
    assert set(ORACLES) | {"id"} == set(losses.BY_NAME)
    assert set(losses.NAMES) == {*losses.BY_NAME, "filip", "mlm", "balance"}


def filip(images, texts, words, scale=50.0):
    """Computes FILIP's loss pair by pair, from the patches of images and the words of texts."""
    cosine = [
        [np.array([[unit(p) @ unit(t) for t in text[mask > 0]] for p in image]) for image in images]
        for text, mask in zip(texts, words, strict=True)
    ]
    total = 0.0
    for n in range(len(images)):
        by_image = np.array([scale * cosine[m][n].max(1).mean() for m in range(len(texts))])
        by_text = np.array([scale * cosine[n][m].max(0).mean() for m in range(len(images))])
        total -= (log_softmax(by_image)[n] + log_softmax(by_text)[n]) / 2
    return total / len(images)


def test_late_interaction():
    """Values, and gradients by differences; what is no word has no effect."""
    rng = np.random.default_rng(0)
    images, texts = rng.normal(size=(4, 5, E)), rng.normal(size=(4, 6, E))
    words = np.array([[0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]], float)
    loss = jax.jit(jax.value_and_grad(functools.partial(losses.filip, scale=7.0), argnums=(0, 1)))
    value, gradients = loss(*(x.astype(np.float32) for x in (images, texts, words)))
    np.testing.assert_allclose(value, filip(images, texts, words, 7.0), rtol=1e-5)
    assert np.all(gradients[1][words == 0] == 0) and np.all(np.abs(gradients[0]).sum((1, 2)) > 0)
    for place in range(2):
        moved = [[x.copy() for x in (images, texts)] for _ in range(2)]
        moved[0][place][1, 1, 2] += 1e-6
        moved[1][place][1, 1, 2] -= 1e-6
        slope = (filip(*moved[0], words, 7.0) - filip(*moved[1], words, 7.0)) / 2e-6
        np.testing.assert_allclose(gradients[place][1, 1, 2], slope, rtol=1e-3)


def test_late_interaction_with_a_text_without_words():
    """It is as unlike every image as can be; nothing is divided by zero."""
    rng = np.random.default_rng(0)
    images, texts = (rng.normal(size=(3, 2, E)).astype(np.float32) for _ in range(2))
    words = np.float32([[1, 1], [0, 0], [1, 0]])
    value, gradients = jax.value_and_grad(losses.filip, argnums=(0, 1))(images, texts, words, scale=1.0)
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in gradients)


@pytest.mark.parametrize("name", DISTILLATION)
def test_losses_of_a_teacher(name):
    """Values, gradients by differences, and nothing to learn from a teacher that is the student, scaled."""
    ours, theirs = features(1), features(2)
    loss = functools.partial(losses.DISTILLATION[name], pids=PIDS)
    loss = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))

    def call(pair, teacher):
        pair = [x.astype(np.float32) for x in pair]
        return loss(*pair, teacher_image=np.float32(teacher[0]), teacher_text=np.float32(teacher[1]))

    value, gradients = call(ours, theirs)
    np.testing.assert_allclose(value, DISTILLATION[name](*ours, *theirs), rtol=1e-4)
    for place in range(2):
        moved = [[x.copy() for x in ours] for _ in range(2)]
        moved[0][place][1, 2] += 1e-6
        moved[1][place][1, 2] -= 1e-6
        slope = (DISTILLATION[name](*moved[0], *theirs) - DISTILLATION[name](*moved[1], *theirs)) / 2e-6
        np.testing.assert_allclose(gradients[place][1, 2], slope, rtol=1e-3)
    value, gradients = call(ours, [3.0 * x for x in ours])
    assert abs(float(value)) < 1e-5 and all(np.abs(g).max() < 1e-4 for g in gradients)


def test_scores_are_distilled_from_features_of_another_size():
    ours, (theirs, _) = features(1), features(2)
    theirs = [np.float32(theirs[:, :2]), np.float32(theirs[:, 1:])]
    settings = {"pids": PIDS, "teacher_image": theirs[0], "teacher_text": theirs[1], "scale": 7.0}
    value = losses.distill_scores(*(x.astype(np.float32) for x in ours), **settings)
    np.testing.assert_allclose(value, distill_scores(*ours, *theirs, scale=7.0), rtol=1e-4)


@by_name
@pytest.mark.parametrize(
    "pids", [PIDS, np.arange(B), np.array([7, 7, 7, 7, 1])], ids=["twice", "once", "most"]
)
def test_value(name, pids):
    images, texts = features(1)
    value, _ = jitted(name)(images.astype(np.float32), texts.astype(np.float32), pids)
    # The sums of SDM and CMPM cancel in part; the tolerance is relative to the loss's own size.
    np.testing.assert_allclose(value, ORACLES[name](images, texts, pids), rtol=1e-4)


@pytest.mark.parametrize("name", ["sdm", "itc", "cmpm", "triplet", "sigmoid"])
def test_gradient(name):
    """Central differences of the oracle. TAL holds some weights fixed and has a test of its own."""
    images, texts = features(2)
    _, (by_image, _) = jitted(name)(images.astype(np.float32), texts.astype(np.float32), PIDS)
    expected, h = np.zeros_like(images), 1e-5
    for i in np.ndindex(*images.shape):
        step = np.zeros_like(images)
        step[i] = h
        expected[i] = ORACLES[name](images + step, texts, PIDS) - ORACLES[name](images - step, texts, PIDS)
    expected /= 2 * h
    np.testing.assert_allclose(by_image, expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max())


def test_gradient_of_tal_stops_at_its_weights():
    """Uses rows so close that every hinge is active and no weight is 0 or 1; compares with central
    differences at fixed weights of the positives, which differ from those of the whole loss."""
    pids = np.array([0, 0, 1])
    images, texts = (np.array([[math.cos(a), math.sin(a), 0.0] for a in row]) for row in ANGLES)
    _, (by_image, _) = jitted("tal")(images.astype(np.float32), texts.astype(np.float32), pids)

    def difference(loss):
        found, h = np.zeros_like(images), 1e-6
        for i in np.ndindex(*images.shape):
            step = np.zeros_like(images)
            step[i] = h
            found[i] = (loss(images + step) - loss(images - step)) / (2 * h)
        return found

    held = difference(lambda x: tal_with_weights_held(x, texts, pids, images, texts))
    flowing = difference(lambda x: tal(x, texts, pids))
    assert np.abs(held - flowing).max() > 0.05 * np.abs(held).max()
    np.testing.assert_allclose(by_image, held, atol=5e-3 * np.abs(held).max())


def tal_with_weights_held(images, texts, pids, images_0, texts_0, margin=0.1, tau=0.015):
    """Computes TAL with weights from other features than its cosines."""
    cosine, held = (
        np.array([[unit(i) @ unit(t) for t in b] for i in a])
        for a, b in ((images, texts), (images_0, texts_0))
    )
    total = 0.0
    for table, fixed in ((cosine, held), (cosine.T, held.T)):
        for n, row in enumerate(table):
            same = pids == pids[n]
            weights = np.exp((fixed[n][same] - fixed[n][same].max()) / tau)
            negative = tau * math.log(sum(math.exp(x / tau) for x in row[~same]))
            total += max(0.0, margin - weights @ row[same] / weights.sum() + negative)
    return total


@by_name
@pytest.mark.parametrize("pids", [np.zeros(B, int), np.arange(B)], ids=["one identity", "all differ"])
def test_finite_if_all_identities_agree_or_differ(name, pids):
    images, texts = (x.astype(np.float32) for x in features(4))
    value, gradients = jitted(name)(images, texts, pids)
    np.testing.assert_allclose(value, ORACLES[name](images, texts, pids), rtol=1e-4, atol=1e-6)
    assert all(np.isfinite(g).all() for g in gradients)


def test_itc_by_hand():
    """Orthogonal pairs: each row's logits are (s, 0), so every cross-entropy is log(1 + e^-s)."""
    value = losses.itc(jnp.eye(2), jnp.eye(2), jnp.arange(2), scale=2.0)
    np.testing.assert_allclose(value, math.log(1 + math.exp(-2)), rtol=1e-6)


def test_sdm_by_hand():
    """p = (1/2, 1/2) everywhere with one identity: the target is the same, so only 1e-8 stays."""
    same = jnp.ones((2, 3))
    np.testing.assert_allclose(losses.sdm(same, same, jnp.zeros(2, int)), 0, atol=1e-6)
    # With two identities: 2 * [1/2 log(1/2) + 1/2 (log(1/2) - log(1e-8))].
    expected = 2 * (math.log(0.5) - 0.5 * math.log(1e-8))
    np.testing.assert_allclose(losses.sdm(same, same, jnp.arange(2)), expected, rtol=1e-5)


def test_triplet_by_hand():
    """Own distances 0 and 0, the others 5: no loss at margin 1, 2 * (8 - 5) at margin 8."""
    feats = jnp.array([[0.0, 0.0], [3.0, 4.0]])
    assert losses.triplet(feats, feats, jnp.arange(2)) == 0
    np.testing.assert_allclose(losses.triplet(feats, feats, jnp.arange(2), margin=8.0), 6.0, rtol=1e-5)


def test_identity_by_hand():
    """Logits (log 3, 0) for each image and (0, 0) for each text; both classes once."""
    kernel, bias = jnp.array([[math.log(3), 0.0], [0.0, 0.0]]), jnp.array([0.0, 0.0])
    images, texts = jnp.array([[1.0, 5.0], [1.0, 2.0]]), jnp.zeros((2, 2))
    by_image = (-math.log(0.75) - math.log(0.25)) / 2
    value = losses.identity(images, texts, jnp.array([0, 1]), kernel=kernel, bias=bias)
    np.testing.assert_allclose(value, (by_image + math.log(2)) / 2, rtol=1e-6)
    # A bias of log 3 for the second class turns the texts' (0, 0) into 1/4, 3/4.
    value = losses.identity(
        texts, texts, jnp.array([1, 1]), kernel=kernel, bias=jnp.array([0.0, math.log(3)])
    )
    np.testing.assert_allclose(value, -math.log(0.75), rtol=1e-6)


def test_sigmoid_by_hand():
    """Two orthogonal pairs of two people: 2 pairs at slope + offset, 2 at -offset; divided by 2."""
    value = losses.sigmoid(jnp.eye(2), jnp.eye(2), jnp.arange(2), slope=3.0, offset=-1.0)
    expected = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1))
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    # With one identity, all four pairs match.
    value = losses.sigmoid(jnp.eye(2), jnp.eye(2), jnp.zeros(2, int), slope=3.0, offset=-1.0)
    expected = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_masked_words_by_hand():
    """One of three positions has no label; the words at the others have probability 3/4 and 1/5."""
    logits = jnp.log(jnp.array([[[1.0, 3.0, 1e-9], [1.0, 1.0, 1.0], [2.0, 2.0, 1.0]]]))
    value = losses.masked_words(logits, jnp.array([[1, 0, 2]]))
    np.testing.assert_allclose(value, -(math.log(0.75) + math.log(0.2)) / 2, rtol=1e-5)
    gradient = jax.grad(losses.masked_words)(logits, jnp.array([[1, 0, 2]]))
    assert not gradient[0, 1].any() and gradient[0, 0].any()


def test_no_masked_word_gives_no_loss():
    value, gradient = jax.value_and_grad(losses.masked_words)(jnp.ones((2, 3, 4)), jnp.zeros((2, 3), int))
    assert value == 0 and not gradient.any()


def test_balance_sums_the_blocks_that_have_one():
    blocks = [{"balance": jnp.array(0.25)}, {}, {"balance": jnp.array(0.5)}]
    assert losses.balance(blocks) == 0.75
    assert losses.balance([{}]) == 0 and losses.balance([]) == 0
