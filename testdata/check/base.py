"""docs/formats/README.md: H, strict JSON, envelopes, key ids; RFC 6962 trees."""

import base64
import binascii
import hashlib
import json
import re

from . import ed25519

VERSION = "1.0"
MAX_INT = 2**63 - 1
MAX_ENVELOPE, MAX_PAYLOAD, MAX_SIGNATURES = 98304, 65536, 64
IDENTIFIER = re.compile(r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?")
HEX32 = re.compile(r"[0-9a-f]{64}")


class Refused(Exception):
    """Input that breaks a rule; code names the rule where the pages define one."""

    def __init__(self, code, detail=""):
        super().__init__(f"{code}: {detail}")
        self.code = code


def need(ok, code, detail=""):
    if not ok:
        raise Refused(code, detail)


class stage:
    """Whatever is refused within is refused with this code, if it has none of the codes let through."""

    def __init__(self, code, *through):
        self.code, self.through = code, (code, *through)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is Refused and error.code not in self.through:
            raise Refused(self.code, str(error)) from None


def sha256(data):
    return hashlib.sha256(data).digest()


def H(domain, *fields):
    """The domain-separated hash; a list is its length and then its elements."""
    out = []

    def put(value):
        if isinstance(value, (list, tuple)):
            put(len(value))
            for element in value:
                put(element)
            return
        raw = value.to_bytes(8, "big") if isinstance(value, int) else value.encode() if isinstance(value, str) else value
        out.append(len(raw).to_bytes(4, "big") + raw)

    put("tallystick/v1/" + domain)
    for field in fields:
        put(field)
    return sha256(b"".join(out))


def optional(value):
    """The fields of an optional value: 0, or 1 and the value. Spread it into H."""
    return (0,) if value is None else (1, value)


def is_id(text):
    return isinstance(text, str) and IDENTIFIER.fullmatch(text) is not None


def is_hex32(text):
    return isinstance(text, str) and HEX32.fullmatch(text) is not None


def is_int(value, low=0, high=2**53 - 1):
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def unbase64(text, code="malformed"):
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise Refused(code, "not base64") from None
    need(base64.b64encode(raw).decode() == text, code, "base64 is not canonical")
    return raw


# Strict JSON


def parse_json(data, code="syntax"):
    """The value, held to every rule that needs no knowledge of its members."""

    def integer(text):
        need(re.fullmatch(r"0|[1-9][0-9]{0,15}", text) and int(text) < 2**53, code, "number " + text)
        return int(text)

    def no(text):
        raise Refused(code, text)

    def pairs(items):
        need(len({name for name, _ in items}) == len(items), code, "repeated member")
        return dict(items)

    def walk(value, depth):
        need(value is not None, code, "null")
        if isinstance(value, str):
            value.encode()  # raises for an unpaired surrogate
        elif isinstance(value, (dict, list)):
            need(depth < 16, code, "too deep")
            for element in value if isinstance(value, list) else [*value.keys(), *value.values()]:
                walk(element, depth + 1)

    try:
        value = json.loads(data.decode(), parse_int=integer, parse_float=no, parse_constant=no, object_pairs_hook=pairs)
        walk(value, 0)
    except (ValueError, RecursionError) as error:  # bad UTF-8 is a ValueError too
        raise Refused(code, str(error)) from None
    return value


def parse_versioned(payload):
    """The value of a payload; another protocol version is named before anything is said of its members."""
    value = parse_json(payload)
    version = value.get("protocol_version") if isinstance(value, dict) else None
    need(not isinstance(version, str) or version == VERSION, "protocol_version", version)
    return value


def canonical(value):
    if isinstance(value, dict):
        names = sorted(value, key=str.encode)
        return b"{" + b",".join(canonical(n) + b":" + canonical(value[n]) for n in names) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(canonical, value)) + b"]"
    if isinstance(value, bool):
        return b"true" if value else b"false"
    if isinstance(value, int):
        return str(value).encode()
    escape = lambda m: "\\" + m[0] if m[0] in '"\\' else f"\\u{ord(m[0]):04x}"
    return ('"' + re.sub(r'["\\\x00-\x1f]', escape, value) + '"').encode()


def members(value, required, allowed="", code="syntax"):
    """value is an object with exactly these members (names separated by blanks)."""
    need(isinstance(value, dict), code, "not an object")
    required, allowed = set(required.split()), set(allowed.split())
    need(required <= set(value) <= required | allowed, code, f"members {sorted(value)}")


# Envelopes


def key_id(public):
    return H("key-id", "ed25519", public).hex()


def pae(payload_type, payload):
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


class Envelope:
    def __init__(self, data, payload_type):
        need(len(data) <= MAX_ENVELOPE, "malformed", "too large")
        value = parse_json(data, "malformed")
        members(value, "payload payloadType signatures", code="malformed")
        need(isinstance(value["payloadType"], str), "malformed")
        self.payload = unbase64(value["payload"])
        need(len(self.payload) <= MAX_PAYLOAD, "malformed", "payload too large")
        listed = value["signatures"]
        need(isinstance(listed, list) and 1 <= len(listed) <= MAX_SIGNATURES, "malformed", "signatures")
        self.signatures = {}
        for one in listed:
            members(one, "keyid sig", code="malformed")
            need(is_hex32(one["keyid"]) and one["keyid"] not in self.signatures, "malformed", "keyid")
            self.signatures[one["keyid"]] = unbase64(one["sig"])
            need(len(self.signatures[one["keyid"]]) == 64, "malformed", "sig")
        need(value["payloadType"] == payload_type, "payload_type", value["payloadType"])
        self.signed = pae(payload_type, self.payload)

    def verify(self, keys):
        """Every signature is by one of keys (key id → public key) and verifies."""
        for keyid, signature in self.signatures.items():
            need(keyid in keys, "unknown_key", keyid)
            need(ed25519.verify(keys[keyid], self.signed, signature), "bad_signature", keyid)


# Trees of RFC 6962


def leaf_hash(entry):
    return sha256(b"\0" + entry)


def node_hash(left, right):
    return sha256(b"\1" + left + right)


def tree_root(leaves):
    """Root over leaf hashes."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return leaves[0]
    split = 1 << (len(leaves) - 1).bit_length() - 1
    return node_hash(tree_root(leaves[:split]), tree_root(leaves[split:]))


def included(leaf, index, size, proof, root):
    """RFC 9162, section 2.1.3.2."""
    if not 0 <= index < size:
        return False
    fn, sn, r = index, size - 1, leaf
    for h in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = node_hash(h, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = node_hash(r, h)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def consistent(first, first_root, second, second_root, proof):
    """RFC 9162, section 2.1.4.2, for 0 < first <= second."""
    if first == second:
        return not proof and first_root == second_root
    if not 0 < first < second:
        return False
    path = list(proof) if first & (first - 1) else [first_root, *proof]
    if not path:
        return False
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = node_hash(c, fr), node_hash(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = node_hash(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and fr == first_root and sr == second_root
