"""C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-policy and tlog-proof.

ML-DSA-44 signatures (type 0x06) are held to their key id, length and signed
message; the signature itself is not verified, and counts as if it were.
"""

import re

from . import ed25519
from .base import Refused, included, need, sha256, unbase64

LOG, COSIGNER, MLDSA = 1, 4, 6
MLDSA_KEY, MLDSA_SIGNATURE = 1312, 2420
MAX_NOTE, MAX_NOTE_SIGNATURES, MAX_AHEAD = 524288, 100, 60
SPACE = re.compile(r"[\s\x00-\x1f]")


class Key:
    """A vkey: name, key id, type, public key."""

    def __init__(self, text):
        parts = text.split("+", 2)
        need(len(parts) == 3 and 1 <= len(parts[0].encode()) <= 255 and not SPACE.search(parts[0]), "key", text[:40])
        self.text, self.name, raw = text, parts[0], unbase64(parts[2], "key")
        need(len(raw) > 1, "key", "empty")
        self.type, self.public = raw[0], raw[1:]
        need(self.type in (LOG, COSIGNER, MLDSA), "key", f"type {self.type}")
        if self.type == MLDSA:
            need(len(self.public) == MLDSA_KEY, "key", "length")
        else:
            need(len(self.public) == 32 and ed25519.usable(self.public), "key", "Ed25519")
        self.id = sha256(self.name.encode() + b"\n" + raw)[:4]
        need(parts[1] == self.id.hex(), "key", "key id")


class Note:
    """A signed note: text, and signatures as (name, key id, signature)."""

    def __init__(self, data):
        need(len(data) <= MAX_NOTE, "too large", str(len(data)))
        need(not re.search(rb"[\x00-\x09\x0b-\x1f]", data), "malformed", "control character")
        try:
            whole = data.decode()
        except ValueError:
            raise Refused("malformed", "not UTF-8") from None
        at = whole.rfind("\n\n")
        need(at >= 0 and whole.endswith("\n") and at + 2 < len(whole), "malformed", "no signatures")
        self.text, self.signatures = whole[:at + 1], []
        lines = whole[at + 2:-1].split("\n")
        need(len(lines) <= MAX_NOTE_SIGNATURES, "too large", f"{len(lines)} signatures")
        for line in lines:
            m = re.fullmatch(r"\u2014 ([^\s+]+) (\S+)", line)
            need(m, "malformed", "signature line")
            raw = unbase64(m[2])
            need(len(raw) > 4, "malformed", "signature")
            self.signatures.append((m[1], raw[:4], raw[4:]))

    def by(self, key):
        return [s for name, keyid, s in self.signatures if (name, keyid) == (key.name, key.id)]

    def signed_by_log(self, keys):
        """Some key signed, and no signature by any of them fails."""
        found = [ed25519.verify(k.public, self.text.encode(), s) for k in keys for s in self.by(k)]
        return bool(found) and all(found)


class Checkpoint:
    """A note's text: origin, size, root hash, and nothing else."""

    def __init__(self, text):
        need(text.endswith("\n"), "malformed", "not terminated")
        lines = text[:-1].split("\n")
        need(len(lines) >= 3 and all(lines), "malformed", "lines")
        self.origin, size, root = lines[:3]
        need(not re.search(r"[\x00-\x1f]", text.replace("\n", "")), "malformed", "control character")
        need(re.fullmatch(r"0|[1-9][0-9]{0,18}", size) and int(size) < 2**63, "malformed", "size")
        self.size, self.root, self.text = int(size), unbase64(root), text
        need(len(self.root) == 32, "malformed", "root hash")
        need((self.size == 0) == (self.root == sha256(b"")), "malformed", "root hash of the empty tree")
        need(len(lines) == 3, "extension")


def cosigned_message(key, checkpoint, timestamp):
    if key.type == COSIGNER:
        return b"cosignature/v1\ntime %d\n" % timestamp + checkpoint.text.encode()
    short = lambda text: bytes([len(text.encode())]) + text.encode()
    return (b"subtree/v1\n\0" + short(key.name) + timestamp.to_bytes(8, "big") + short(checkpoint.origin)
            + bytes(8) + checkpoint.size.to_bytes(8, "big") + checkpoint.root)


def cosignature_time(key, checkpoint, signature):
    """The timestamp of a cosignature; refuses one that does not verify."""
    timestamp = int.from_bytes(signature[:8], "big")
    need(timestamp < 2**63, "cosignature", "timestamp")
    if key.type == MLDSA:
        need(len(signature) == 8 + MLDSA_SIGNATURE, "cosignature", "length")
    else:
        message = cosigned_message(key, checkpoint, timestamp)
        need(ed25519.verify(key.public, message, signature[8:]), "cosignature", key.name)
    return timestamp


class PolicyError(Exception):
    def __init__(self, line, reason):
        super().__init__(f"line {line}: {reason}")
        self.line = line


class Policy:
    def __init__(self, data):
        """Parses a policy; PolicyError.line is 0 for a fault of the file as a whole."""
        self.logs, self.witnesses, self.groups, self.quorum = [], {}, {}, None
        keys, used = {"log": set(), "witness": set()}, set()
        lines = data.split(b"\n")
        for number, line in enumerate(lines[:-1] if not lines[-1] else lines, 1):
            def check(ok, reason):
                if not ok:
                    raise PolicyError(number, reason)

            check(not re.search(rb"[\x00-\x08\x0b-\x1f\x7f]", line), "octet")
            check(number < len(lines), "not terminated")
            words = [w.decode("latin-1") for w in re.split(rb"[ \t]+", line) if w]
            if not words or words[0].startswith("#"):
                continue
            kind, args = words[0], words[1:]

            def key(text, types):
                try:
                    parsed = Key(text.encode("latin-1").decode(errors="replace"))
                except Refused as error:
                    check(False, str(error))
                check(parsed.type in types, f"signature type {parsed.type}")
                check(parsed.public not in keys[kind], "duplicate")
                keys[kind].add(parsed.public)
                return parsed

            def new_name(name):
                check(name != "none" and name not in self.witnesses and name not in self.groups, "name")

            if kind == "log":
                check(1 <= len(args) <= 2, "words")
                self.logs.append(key(args[0], (LOG, MLDSA)))
            elif kind == "witness":
                check(2 <= len(args) <= 3, "words")
                new_name(args[0])
                self.witnesses[args[0]] = key(args[1], (COSIGNER, MLDSA))
            elif kind == "group":
                check(len(args) >= 3, "words")
                name, threshold, listed = args[0], args[1], args[2:]
                new_name(name)
                for one in listed:
                    check(one in self.witnesses or one in self.groups, "undefined")
                    check(one not in used, "member already")
                    used.add(one)
                threshold = {"any": "1", "all": str(len(listed))}.get(threshold, threshold)
                check(re.fullmatch(r"[1-9][0-9]{0,8}", threshold) and int(threshold) <= len(listed), "threshold")
                self.groups[name] = (int(threshold), listed)
            elif kind == "quorum":
                check(self.quorum is None, "second quorum line")
                check(len(args) == 1, "words")
                check(args[0] == "none" or args[0] in self.witnesses or args[0] in self.groups, "undefined")
                self.quorum = args[0]
            else:
                check(False, "keyword")
        if self.quorum is None:
            raise PolicyError(0, "no quorum line")

    def met(self, names, name=None):
        name = name or self.quorum
        if name in self.groups:
            threshold, listed = self.groups[name]
            return sum(self.met(names, one) for one in listed) >= threshold
        return name == "none" or name in names

    def verify(self, data, now=None, max_age=None):
        """The checkpoint of a note that satisfies the policy, and witness name → newest timestamp."""
        note = Note(data)
        checkpoint = Checkpoint(note.text)
        logs = [k for k in self.logs if k.name == checkpoint.origin]
        need(logs, "origin", checkpoint.origin)
        need(note.signed_by_log(logs), "log signature")
        times = {}
        for name, key in self.witnesses.items():
            for signature in note.by(key):
                times[name] = max(times.get(name, 0), cosignature_time(key, checkpoint, signature))
        need(self.met(times), "quorum")
        if max_age is not None:
            times = {n: t for n, t in times.items() if now - max_age <= t <= now + MAX_AHEAD}
            need(self.met(times), "stale")
        return checkpoint, times


def verify_tlog_proof(data, leaf, policy):
    head, blank, note = data.partition(b"\n\n")
    lines = head.decode(errors="replace").split("\n")
    need(blank and lines.pop(0) == "c2sp.org/tlog-proof@v1", "malformed", "first line")
    if lines and lines[0].startswith("extra "):
        unbase64(lines.pop(0)[len("extra "):])
    m = re.fullmatch(r"index (0|[1-9][0-9]{0,18})", lines.pop(0) if lines else "")
    need(m and int(m[1]) < 2**63 and len(lines) <= 64, "malformed", "index")
    proof = [unbase64(line) for line in lines]
    need(all(len(h) == 32 for h in proof), "malformed", "hash")
    need(int(m[1]) < Checkpoint(Note(note).text).size, "malformed", "index beyond the tree")
    checkpoint, _ = policy.verify(note)
    need(included(leaf, int(m[1]), checkpoint.size, proof, checkpoint.root), "proof")
