"""A z-buffer rasterizer, which finds the nearest triangle for every pixel.

It is implemented twice, in NumPy and in Numba, with equal results; Numba is used if it is installed.
"""

import numpy as np
from jaxtyping import Float, Int

from tpr_jax.utils.numba_cache import njit, numba

EDGE = 1e-5  # pixels by which a face may miss a pixel's center, which avoids seams between neighbors


def vertex_normals(vertices: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"]) -> np.ndarray:
    """Computes area-weighted unit normals [n, 3]; zero for a vertex without a face."""
    a, b, c = (vertices.take(faces[:, k], axis=0) for k in range(3))
    face_normals = np.cross(b - a, c - a)
    out = np.zeros((len(vertices), 3))
    flat = faces.ravel()
    for axis in range(3):
        out[:, axis] = np.bincount(flat, np.repeat(face_normals[:, axis], 3), len(vertices))
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-12)


def rasterize_numpy(
    screen: Float[np.ndarray, "n 3"], faces: Int[np.ndarray, "f 3"], height: int, width: int
) -> tuple[Float[np.ndarray, "h w"], Int[np.ndarray, "h w"], Float[np.ndarray, "h w 2"]]:
    """Rasterizes triangles with NumPy.

    Tests all candidate pixels of all faces at once and sorts them by depth; at equal depths the first face
    wins.

    Args:
      screen: x and y in pixels (a pixel's center is at +0.5), and depth, of each vertex.
      faces: vertex indices of each triangle.
      height: the height of the frame.
      width: the width of the frame.

    Returns:
      Depth (inf for the background), index of the nearest face (-1), and its first two barycentric weights.
    """
    depth = np.full(height * width, np.inf)
    index = np.full(height * width, -1, np.int32)
    bary = np.zeros((height * width, 2))
    corners = screen[faces]
    # Only pixels with their center in the face's box: most faces are smaller than a pixel and have none.
    low = np.clip(np.ceil(corners[..., :2].min(1) - 0.5 - EDGE).astype(int), 0, None)
    high = np.minimum(np.floor(corners[..., :2].max(1) - 0.5 + EDGE).astype(int), (width - 1, height - 1))
    span = np.maximum(high - low + 1, 0)
    count = span[:, 0] * span[:, 1]
    face = np.repeat(np.arange(len(faces)), count)
    step = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    px = low[face, 0] + step % np.maximum(span[face, 0], 1)
    py = low[face, 1] + step // np.maximum(span[face, 0], 1)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = corners[face].transpose(1, 2, 0)
    area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
    flat = np.abs(area) < 1e-12
    area = np.where(flat, 1.0, area)
    fx, fy = px + 0.5, py + 0.5
    w0 = ((by - cy) * (fx - cx) + (cx - bx) * (fy - cy)) / area
    w1 = ((cy - ay) * (fx - cx) + (ax - cx) * (fy - cy)) / area
    w2 = 1.0 - w0 - w1
    inside = ~flat & (w0 >= -1e-5) & (w1 >= -1e-5) & (w2 >= -1e-5)
    z = (w0 * az + w1 * bz + w2 * cz)[inside]
    pixel, face, w0, w1 = (py * width + px)[inside], face[inside], w0[inside], w1[inside]
    order = np.lexsort((z, pixel))  # stable: at equal depths the first face stays first
    pixel = pixel[order]
    first = order[np.r_[True, pixel[1:] != pixel[:-1]]] if len(pixel) else order
    at = (py * width + px)[inside][first]
    depth[at], index[at] = z[first], face[first]
    bary[at] = np.stack([w0[first], w1[first]], 1)
    return depth.reshape(height, width), index.reshape(height, width), bary.reshape(height, width, 2)


def _scan(screen, faces, height, width):
    depth = np.full((height, width), np.inf)
    index = np.full((height, width), -1, np.int32)
    bary = np.zeros((height, width, 2))
    for i in range(faces.shape[0]):
        a, b, c = faces[i, 0], faces[i, 1], faces[i, 2]
        ax, ay, az = screen[a, 0], screen[a, 1], screen[a, 2]
        bx, by, bz = screen[b, 0], screen[b, 1], screen[b, 2]
        cx, cy, cz = screen[c, 0], screen[c, 1], screen[c, 2]
        area = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy)
        if abs(area) < 1e-12:
            continue
        x0 = max(0, int(np.ceil(min(ax, bx, cx) - 0.5 - EDGE)))
        x1 = min(width - 1, int(np.floor(max(ax, bx, cx) - 0.5 + EDGE)))
        y0 = max(0, int(np.ceil(min(ay, by, cy) - 0.5 - EDGE)))
        y1 = min(height - 1, int(np.floor(max(ay, by, cy) - 0.5 + EDGE)))
        for y in range(y0, y1 + 1):
            for x in range(x0, x1 + 1):
                fx, fy = x + 0.5, y + 0.5
                w0 = ((by - cy) * (fx - cx) + (cx - bx) * (fy - cy)) / area
                w1 = ((cy - ay) * (fx - cx) + (ax - cx) * (fy - cy)) / area
                w2 = 1.0 - w0 - w1
                if w0 < -1e-5 or w1 < -1e-5 or w2 < -1e-5:
                    continue
                z = w0 * az + w1 * bz + w2 * cz
                if z < depth[y, x]:
                    depth[y, x] = z
                    index[y, x] = i
                    bary[y, x, 0] = w0
                    bary[y, x, 1] = w1
    return depth, index, bary


# The NumPy version takes about three times as long.
_scan_numba = njit(_scan) if numba is not None else None


def rasterize(screen: np.ndarray, faces: np.ndarray, height: int, width: int):
    """Computes `rasterize_numpy`, with Numba if it is installed."""
    screen = np.ascontiguousarray(screen, np.float64)
    if _scan_numba is None:
        return rasterize_numpy(screen, faces, height, width)
    return _scan_numba(screen, np.ascontiguousarray(faces, np.int32), height, width)


def interpolate(
    attributes: Float[np.ndarray, "n c"],
    faces: Int[np.ndarray, "f 3"],
    index: Int[np.ndarray, " p"],
    bary: Float[np.ndarray, "p 2"],
) -> Float[np.ndarray, "p c"]:
    """Interpolates vertex attributes at pixels covered by the faces `index` with the weights `bary`."""
    corners = faces[index]
    a, b, c = (attributes.take(corners[:, k], axis=0) for k in range(3))
    bary = bary.astype(attributes.dtype)
    w0, w1 = bary[:, :1], bary[:, 1:]
    return w0 * a + w1 * b + (1.0 - w0 - w1) * c
