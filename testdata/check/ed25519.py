"""Ed25519 (RFC 8032): public key, signing, verification without cofactor."""

import functools
import hashlib

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P
SQRT_M1 = pow(2, (P - 1) // 4, P)
NEUTRAL = (0, 1, 1, 0)  # extended coordinates X, Y, Z, T


def _add(p, q):
    a = (p[1] - p[0]) * (q[1] - q[0]) % P
    b = (p[1] + p[0]) * (q[1] + q[0]) % P
    c = 2 * p[3] * q[3] * D % P
    d = 2 * p[2] * q[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def _mul(s, p):
    q = NEUTRAL
    while s:
        if s & 1:
            q = _add(q, p)
        p = _add(p, p)
        s >>= 1
    return q


def _equal(p, q):
    return (p[0] * q[2] - q[0] * p[2]) % P == 0 and (p[1] * q[2] - q[1] * p[2]) % P == 0


def _encode(p):
    z = pow(p[2], P - 2, P)
    x, y = p[0] * z % P, p[1] * z % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decode(raw):
    """The point of a canonical encoding, or None."""
    n = int.from_bytes(raw, "little")
    sign, y = n >> 255, n & (2**255 - 1)
    if len(raw) != 32 or y >= P:
        return None
    xx = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(xx, (P + 3) // 8, P)
    if (x * x - xx) % P:
        x = x * SQRT_M1 % P
    if (x * x - xx) % P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = P - x
    return x, y, 1, x * y % P


_BY = 4 * pow(5, P - 2, P) % P
BASE = _decode(_BY.to_bytes(32, "little"))


def _scalar(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little") % L


def _expand(seed):
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & (2**254 - 8) | 2**254
    return a, h[32:]


@functools.lru_cache(maxsize=None)
def public_key(seed):
    return _encode(_mul(_expand(seed)[0], BASE))


@functools.lru_cache(maxsize=None)
def sign(seed, message):
    a, prefix = _expand(seed)
    public = public_key(seed)
    r = _scalar(prefix, message)
    big_r = _encode(_mul(r, BASE))
    s = (r + _scalar(big_r, public, message) * a) % L
    return big_r + s.to_bytes(32, "little")


@functools.lru_cache(maxsize=None)
def usable(public):
    """Whether it is the canonical encoding of a point that is not of small order."""
    p = _decode(public)
    return p is not None and not _equal(_mul(8, p), NEUTRAL)


@functools.lru_cache(maxsize=None)
def verify(public, message, signature):
    if len(signature) != 64 or not usable(public):
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= L:
        return False
    x, y, z, t = _decode(public)
    k = _scalar(signature[:32], public, message)
    r = _add(_mul(s, BASE), _mul(k, (P - x, y, z, P - t)))
    return _encode(r) == signature[:32]
