"""docs/formats/evidence.md: what proves that a log forked, or holds an unlawful change."""

import json

from . import membership, note
from .base import Refused, consistent, leaf_hash, need, node_hash, tree_root, unbase64

CHECKPOINTS, CHANGE = "tallystick checkpoint evidence v1", "tallystick unlawful change evidence v1"
MAX_ENTRIES, MAX_HASHES = 100_001, 64


def read(text, kind, names, optional=()):
    """The members of a file in its one form."""
    try:
        value = json.loads(text)
    except ValueError as error:
        raise Refused("malformed", str(error)) from None
    need(isinstance(value, dict) and value.get("format") == kind, "malformed", "format")
    need([n for n in value if n not in optional] == ["format", *names], "malformed", "members")
    need(json.dumps(value, indent=2, ensure_ascii=False) + "\n" == text, "malformed", "form")
    hashes = [unbase64(h) for h in value["consistency_proof"]]
    need(len(hashes) <= MAX_HASHES and all(len(h) == 32 for h in hashes), "malformed", "proof")
    return value, hashes


def past(size, newer, hashes):
    """The root hash at a size that a consistency proof makes by itself; None if it needs that hash, or proves nothing."""
    if not 0 < size < newer.size or not size & (size - 1) or not hashes:
        return None
    fn, sn, older, root = size - 1, newer.size - 1, hashes[0], hashes[0]
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    for h in hashes[1:]:
        if fn & 1 or fn == sn:
            older, root = node_hash(h, older), node_hash(h, root)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            root = node_hash(root, h)
        fn, sn = fn >> 1, sn >> 1
    return older if sn == 0 and root == newer.root else None


def judge_checkpoints(text, vkeys):
    """The finding: "fork" or "unproven"; refuses what is evidence of nothing."""
    names = ["log_vkeys", "known", "submitted", "consistency_proof"]
    value, hashes = read(text, CHECKPOINTS, names, ["root_at_smaller_size"])
    keys, seen = [note.Key(k) for k in vkeys], []
    for name in ("known", "submitted"):
        signed = note.Note(value[name].encode())
        seen.append(note.Checkpoint(signed.text))
        need(signed.signed_by_log([k for k in keys if k.name == seen[-1].origin]), "nothing", "not signed")
    need(seen[0].origin == seen[1].origin, "nothing", "two logs")
    older, newer = sorted(seen, key=lambda c: c.size)
    if older.size == newer.size:
        need(older.root != newer.root, "nothing", "the same")
        return "fork"
    need(older.size > 0, "nothing", "everything extends the empty tree")
    if "root_at_smaller_size" in value:
        root = unbase64(value["root_at_smaller_size"])
        root = root if consistent(older.size, root, newer.size, newer.root, hashes) else None
    else:
        root = past(older.size, newer, hashes)
        if root is None and consistent(older.size, older.root, newer.size, newer.root, hashes):
            root = older.root
    need(root != older.root, "nothing", "consistent")
    return "fork" if root else "unproven"


def judge_change(text, genesis):
    """The index of the unlawful entry and the code of its refusal."""
    value, hashes = read(text, CHANGE, ["genesis", "entries", "checkpoint", "consistency_proof"])
    entries = [unbase64(e) for e in value["entries"]]
    need(1 <= len(entries) <= MAX_ENTRIES, "malformed", "entries")
    need(unbase64(value["genesis"]) == genesis, "genesis")
    state, last, code, keys = membership.follow(None, genesis), len(entries) - 1, "genesis", {}

    def name(log):
        keys.setdefault(log["origin"], set()).update(log["keys"])

    name(state.logs["membership"])
    if last == 0:
        need(entries[0] != genesis, "lawful")
    else:
        need(entries[0] == genesis, "malformed", "entry 0")
        for entry in entries[1:last]:
            try:
                state = membership.follow(state, entry)
            except Refused as error:
                raise Refused("malformed", str(error)) from None
            name(state.logs["membership"])
        try:
            membership.follow(state, entries[last])
        except Refused as error:
            code = error.code
        else:
            raise Refused("lawful")
        need(code != "protocol_version", "version")
    signed = note.Note(value["checkpoint"].encode())
    checkpoint = note.Checkpoint(signed.text)
    need(signed.signed_by_log([note.Key(k) for k in keys.get(checkpoint.origin, ())]), "not_signed")
    root = tree_root([leaf_hash(e) for e in entries])
    need(consistent(len(entries), root, checkpoint.size, checkpoint.root, hashes), "not_in_log")
    return last, code
