"""docs/formats/record.md: canonical protobuf, records, commitments, deduplication keys."""

import hmac
import re

from .base import MAX_ENVELOPE, MAX_INT, VERSION, Envelope, H, Refused, is_hex32, is_id, need, sha256

MAX_RECORD, MAX_BUNDLE = 131072, 64 << 20
SCALARS = {"bool": 1, "uint32": 2**32 - 1, "uint64": MAX_INT}  # type → largest value
ATTESTATION = "application/vnd.in-toto+json"


class Field:
    def __init__(self, repeated, kind, name, oneof):
        self.repeated, self.kind, self.name, self.oneof = bool(repeated), kind, name, oneof


def parse_proto(text):
    """Message name → field number → Field, for the part of proto3 that the schema uses."""
    text = re.sub(r"//[^\n]*", "", text)
    schema, message, oneof = {}, None, None
    token = re.compile(
        r"message (\w+) \{|oneof (\w+) \{|(\})|(repeated )?(\w+) (\w+) = (\d+);|(?:syntax|package|option|import)\b[^\n]*;\n|(\S)")
    for m in token.finditer(text):
        if m[8]:
            raise ValueError(f"not understood in .proto at {m.start()}: {text[m.start():m.start() + 40]!r}")
        if m[1]:
            message = schema.setdefault(m[1], {})
        elif m[2]:
            oneof = m[2]
        elif m[3]:
            oneof, message = None, message if oneof else None
        elif m[7]:
            message[int(m[7])] = Field(m[4], m[5], m[6], oneof)
    return schema


def varint(data, at):
    value = shift = 0
    while True:
        need(at < len(data) and shift < 70, "canonical", "varint is cut off or too long")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            need((byte or shift == 7) and value < 2**64, "canonical", "varint is not minimal")
            return value, at


def decode(schema, name, data, depth=0):
    """Field name → value of one message, refused unless it is in canonical wire form."""
    need(depth < 8, "canonical", "more than 8 levels")
    out, at, last, chosen = {}, 0, 0, set()

    def scalar(kind, pos, end):
        value, pos = varint(data[:end], pos)
        need(value <= SCALARS[kind], "canonical", f"{kind} {value}")
        return value, pos

    while at < len(data):
        tag, at = varint(data, at)
        number, wire = tag >> 3, tag & 7
        need(number in schema[name], "canonical", f"unknown field {number}")
        field = schema[name][number]
        need(number > last or (number == last and field.repeated and field.kind not in SCALARS), "canonical", "order")
        last = number
        if field.oneof:
            need(field.oneof not in chosen, "canonical", "second member")
            chosen.add(field.oneof)
        packed = field.repeated and field.kind in SCALARS
        need(wire == (0 if field.kind in SCALARS and not packed else 2), "canonical", f"wire type {wire}")
        if wire == 0:
            value, at = scalar(field.kind, at, len(data))
        else:
            size, at = varint(data, at)
            need(size <= len(data) - at, "canonical", "length")
            raw, at = data[at:at + size], at + size
            if packed:
                need(raw, "canonical", "empty run")
                pos, value = at - size, []
                while pos < at:
                    one, pos = scalar(field.kind, pos, at)
                    value.append(one)
            elif field.kind == "string":
                try:
                    value = raw.decode()
                except ValueError:
                    raise Refused("canonical", "not UTF-8") from None
            elif field.kind == "bytes":
                value = raw
            else:
                need(field.kind in schema, "canonical", f"type {field.kind}")
                value = decode(schema, field.kind, raw, depth + 1)
        if field.repeated:
            out.setdefault(field.name, []).extend(value if packed else [value])
        else:
            need(value or field.oneof or isinstance(value, dict), "canonical", "default value")
            out[field.name] = value
    return out


def encode(schema, name, message):
    """The canonical form of what decode returns."""
    def number(n):
        return bytes([n & 127 | 128]) + number(n >> 7) if n > 127 else bytes([n])

    def sized(raw):
        return number(len(raw)) + raw

    out = b""
    for tag, field in sorted(schema[name].items()):
        values = message.get(field.name)
        if values is None:
            continue
        if field.kind in SCALARS:
            packed = field.repeated and sized(b"".join(map(number, values)))
            out += number(tag << 3 | 2) + packed if field.repeated else number(tag << 3) + number(values)
            continue
        for v in values if field.repeated else [values]:
            raw = v if field.kind == "bytes" else v.encode() if field.kind == "string" else encode(schema, field.kind, v)
            out += number(tag << 3 | 2) + sized(raw)
    return out


def parse_opening(data):
    """Salt and record bytes of an opening, whatever the record is."""
    need(32 < len(data) <= 32 + MAX_RECORD, "opening", str(len(data)))
    return data[:32], data[32:]


def commitment(salt, record):
    return hmac.new(salt, record, "sha256").digest()


WITH_ACTOR = {"contract", "retirement", "request", "cancellation", "attestation", "operation"}
WITHOUT_ACTOR = {"reschedule", "divergence", "provenance", "expired", "operation_batch", "unauthenticated"}
MAY_BE_0 = {"time_unix_ms", "duplicate_of"}
MAY_BE_ABSENT = {"object", "parents", "token_id"}
IDENTIFIERS = {"cluster", "tenant", "node", "nodes", "principal"}
MOST = {"nodes": 64, "attestation_digests": 128, "parents": 8}
MAX_ELEMENTS = 8192


def kind_of(schema, record):
    kinds = [f.name for f in schema["Record"].values() if f.oneof and f.name in record]
    need(len(kinds) == 1, "field", "exactly one kind")
    return kinds[0]


def parse_record(schema, data):
    """Header and body of a record, with the checks that every record gets. Returns (kind, message)."""
    need(len(data) <= MAX_RECORD, "too_large", str(len(data)))
    record = decode(schema, "Record", data)
    need(record.get("protocol_version") == VERSION, "version", str(record.get("protocol_version")))
    kind = kind_of(schema, record)
    need(is_id(record.get("cluster")), "field", "cluster")
    need(kind not in WITH_ACTOR or "actor" in record, "field", "actor missing")
    need(kind not in WITHOUT_ACTOR or "actor" not in record, "field", "actor present")

    elements = 0

    def check(name, message):
        nonlocal elements
        for field in schema[name].values():
            values = message.get(field.name)
            if field.repeated and values:
                elements += len(values)
                need(len(values) <= MOST.get(field.name, MAX_ELEMENTS) and elements <= MAX_ELEMENTS, "field", field.name)
            absent = field.name in MAY_BE_ABSENT or (field.name == "tenant" and kind.startswith("operation"))
            for value in values if field.repeated and values else [values]:
                if value is None:
                    ok = absent or field.name in MAY_BE_0
                elif isinstance(value, dict):
                    check(field.kind, value)
                    continue
                elif field.name == "envelope":
                    ok = 1 <= len(value) <= MAX_ENVELOPE
                elif field.kind == "bytes":
                    ok = len(value) == 32
                elif field.name in IDENTIFIERS:
                    ok = is_id(value)
                elif field.kind == "string":
                    ok = re.fullmatch(r"[a-z0-9_]{1,64}" if field.name == "code" else r"[ -~]{1,255}", value)
                else:
                    ok = value >= 1
                need(ok, "field", f"{name}.{field.name}: {value!r}")

    body = next(f for f in schema["Record"].values() if f.name == kind)
    check(body.kind, record[kind])
    if "actor" in record:
        check("Actor", record["actor"])
        need(is_hex32(record["actor"]["key_id"]), "field", "key id")
    if kind == "provenance":
        nodes, digests = record[kind]["nodes"], record[kind]["attestation_digests"]
        need(nodes == sorted(set(nodes)) and len(nodes) == len(digests), "field", "nodes")
    return kind, record


DEDUP = {
    "epoch": ["epoch"], "contract": ["contract_hash"], "retirement": ["contract_hash"], "request": ["execution_id"],
    "cancellation": ["execution_id"], "reschedule": ["execution_id", "attempt"],
    "attestation": ["execution_id", "node", "statement"], "divergence": ["execution_id"], "provenance": ["execution_id"],
    "expired": ["execution_id"], "erasure": ["tenant", "digest"],
}


def dedup_key(kind, body):
    if kind not in DEDUP:
        return None
    if kind == "attestation":
        body = dict(body, statement=sha256(Envelope(body["envelope"], ATTESTATION).payload))
    return H("dedup", kind, *(body[name] for name in DEDUP[kind]))
