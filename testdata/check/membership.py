"""docs/formats/membership.md: principals, state, changes, revocation, proofs, schedule."""

import re

from . import note
from .base import (Envelope, H, Refused, VERSION, canonical, included, is_hex32, is_id, is_int, key_id, leaf_hash, members,
                   need, parse_json, parse_versioned, sha256, tree_root, unbase64)
from .ed25519 import usable, verify

TYPE = "application/vnd.tallystick.change.v1+json"
USES = {"admin": {"change", "token"}, "auditor": {"token"}, "node": {"attestation", "token"},
        "tenant": {"contract", "submission", "token"}}
LIMITS = ("argument_bytes diagnostics_bytes frames gas input_bytes max_assigned memory_pages module_bytes output_bytes")
CHANGES = {  # kind → required members, optional members
    "genesis": ("admin_threshold limits logs node_quorum principals", ""),
    "add_principal": ("principal", ""),
    "remove_principal": ("id", ""),
    "update_principal": ("id", "labels name trust_level"),
    "rotate_key": ("id", "add remove"),
    "set_admin_threshold": ("threshold", ""),
    "set_node_quorum": ("quorum", ""),
    "set_cluster_limits": ("limits", ""),
    "set_protocol_version": ("version", ""),
    "set_log_keys": ("keys log", "receipt_keys"),
    "confirm_successor_log": ("checkpoint log new_keys new_origin", "new_receipt_keys"),
}
MAX_CHANGE, MAX_PRINCIPALS, MAX_THRESHOLD = 65535, 100000, 64 - 8
TEXT = re.compile(r"[ -~]{1,63}")


def check_description(p):
    need(TEXT.fullmatch(p.get("name", "x")), "value", "name")
    labels = p.get("labels", {})
    need(len(labels) <= 16 and all(TEXT.fullmatch(t) for kv in labels.items() for t in kv), "value", "labels")
    need("labels" not in p or labels, "value", "empty labels")
    need(is_int(p.get("trust_level", 1), 1, 1000), "value", "trust_level")


def check_key(key, kind=None):
    members(key, "algorithm public_key uses")
    public = unbase64(key["public_key"], "syntax")
    need(key["algorithm"] == "ed25519" and usable(public), "value", "public key")
    uses = key["uses"]
    every = set().union(*USES.values())
    need(uses and uses == sorted(set(uses)) and set(uses) <= (USES[kind] if kind else every), "value", "uses")


def check_principal(p):
    members(p, "id keys kind", "labels name trust_level")
    need(is_id(p["id"]) and p["kind"] in USES, "value", "principal")
    need(p["kind"] == "node" or not {"labels", "name", "trust_level"} & set(p), "value", "only nodes are described")
    check_description(p)
    for key in p["keys"]:
        check_key(key, p["kind"])
    public = publics(p)
    need(1 <= len(public) <= 8 and public == sorted(set(public)), "value", "keys")


def publics(principal):
    return [unbase64(key["public_key"]) for key in principal["keys"]]


def check_log_keys(origin, keys, receipt_keys):
    parsed = []
    for texts, name, least in ((keys, origin, 1), (receipt_keys, origin + "/receipt", 0)):
        need(least <= len(texts) <= 8 and texts == sorted(set(texts)), "value", "log keys")
        for text in texts:
            try:
                parsed.append(note.Key(text))
            except Refused as error:
                raise Refused("value", str(error)) from None
            need(parsed[-1].name == name and parsed[-1].type == note.LOG, "value", text)
    need(len({k.public for k in parsed}) == len(parsed), "value", "a key twice in one log")


def check_limits(limits):
    members(limits, LIMITS)
    most = {"argument_bytes": 16384, "max_assigned": 64, "memory_pages": 65536}
    need(all(is_int(v, 50 if name == "module_bytes" else 1, most.get(name, 2**53 - 1)) for name, v in limits.items()), "value", "limits")


def log_of(origin, keys, receipt_keys):
    return dict({"keys": keys, "origin": origin}, **({"receipt_keys": receipt_keys} if receipt_keys else {}))


class State:
    def __init__(self, cluster):
        self.cluster, self.epoch, self.version = cluster, 0, VERSION
        self.principals, self.threshold, self.quorum, self.limits, self.logs = {}, 0, 0, {}, {}
        self.previous = bytes(32)

    def copy(self):
        other = State(self.cluster)
        other.__dict__.update(self.__dict__, principals=dict(self.principals), logs=dict(self.logs))
        return other

    def leaves(self):
        return [canonical(self.principals[i]) for i in sorted(self.principals)]

    def membership_hash(self):
        return tree_root([leaf_hash(leaf) for leaf in self.leaves()])

    def content(self):
        return (self.cluster, self.membership_hash(), len(self.principals), self.threshold, self.quorum,
                canonical(self.limits), canonical(self.logs), self.version)

    def identity_hash(self):
        return H("cluster-identity", *self.content())

    def holders(self, use, kind=None):
        """Key id → (principal, public key) of every key with the use (any use when None)."""
        return {key_id(raw): (i, raw) for i, p in self.principals.items() if kind in (None, p["kind"])
                for raw, key in zip(publics(p), p["keys"]) if use is None or use in key["uses"]}

    def keys(self, principal, use):
        return {k: raw for k, (i, raw) in self.holders(use).items() if i == principal}

    def eligible(self, min_trust, labels):
        nodes = {i for i, _ in self.holders("attestation", "node").values()}
        return sorted(i for i in nodes if self.principals[i].get("trust_level", 0) >= min_trust
                      and labels.items() <= self.principals[i].get("labels", {}).items())

    def _principal(self, name):
        need(name in self.principals, "unknown_principal", name)
        return self.principals[name]

    def _add(self, p):
        need(p["id"] not in self.principals, "exists", p["id"])
        need(not set(publics(p)) & {raw for _, raw in self.holders(None).values()}, "key_exists")
        self.principals[p["id"]] = p

    def apply(self, c):
        """Applies the effect of a change; returns the public keys that it adds."""
        kind = c["kind"]
        if kind == "genesis":
            self.threshold, self.quorum, self.limits, self.logs = c["admin_threshold"], c["node_quorum"], c["limits"], c["logs"]
            for p in c["principals"]:
                self._add(p)
            return [raw for p in c["principals"] for raw in publics(p)]
        if kind == "add_principal":
            self._add(c["principal"])
            need(len(self.principals) <= MAX_PRINCIPALS, "full")
            return publics(c["principal"])
        if kind == "remove_principal":
            self._principal(c["id"])
            del self.principals[c["id"]]
        elif kind == "update_principal":
            p = self._principal(c["id"])
            need(p["kind"] == "node", "kind", p["kind"])
            self.principals[c["id"]] = {n: v for n, v in {**p, **{x: c.get(x) for x in ("labels", "name", "trust_level")}}.items()
                                        if v is not None}
        elif kind == "rotate_key":
            return self._rotate(c)
        elif kind == "set_admin_threshold":
            self.threshold = c["threshold"]
        elif kind == "set_node_quorum":
            need(c["quorum"] <= len([p for p in self.principals.values() if p["kind"] == "node"]), "quorum")
            self.quorum = c["quorum"]
        elif kind == "set_cluster_limits":
            self.limits = c["limits"]
        elif kind == "set_protocol_version":
            need(c["version"] == VERSION, "protocol_version", c["version"])
        elif kind == "set_log_keys":
            origin, receipts = self.logs[c["log"]]["origin"], c.get("receipt_keys", [])
            check_log_keys(origin, c["keys"], receipts)
            self.logs[c["log"]] = log_of(origin, c["keys"], receipts)
        else:
            self._succeed(c)
        return []

    def _rotate(self, c):
        p = self._principal(c["id"])
        keys, added = {raw: key for raw, key in zip(publics(p), p["keys"])}, []
        if "add" in c:
            check_key(c["add"], p["kind"])
            added = [unbase64(c["add"]["public_key"])]
            need(added[0] not in {raw for _, raw in self.holders(None).values()}, "key_exists")
        if "remove" in c:
            gone = [raw for raw in keys if key_id(raw) == c["remove"]]
            need(gone, "unknown_key", c["remove"])
            del keys[gone[0]]
        if added:
            keys[added[0]] = c["add"]
        need(1 <= len(keys) <= 8, "key_count")
        self.principals[c["id"]] = dict(p, keys=[keys[raw] for raw in sorted(keys)])
        return added

    def _succeed(self, c):
        old, origin = self.logs[c["log"]], c["new_origin"]
        taken = {name for log in self.logs.values() for name in (log["origin"], log["origin"] + "/receipt")}
        need(origin.startswith(self.cluster + "/") and re.fullmatch(r"[!-*,-~]{1,255}", origin) and origin not in taken,
             "value", "new_origin")
        check_log_keys(origin, c["new_keys"], c.get("new_receipt_keys", []))
        try:
            signed = note.Note(c["checkpoint"].encode())
            checkpoint = note.Checkpoint(signed.text)
            ok = checkpoint.origin == old["origin"] and signed.signed_by_log([note.Key(k) for k in old["keys"]])
        except Refused as error:
            raise Refused("checkpoint", str(error)) from None
        need(ok, "checkpoint")
        self.logs[c["log"]] = log_of(origin, c["new_keys"], c.get("new_receipt_keys", []))


def check_form(value, name=""):
    """The JSON type of every member, by its name; what may be left out is not written empty."""
    if name in ("cluster_identity_hash", "membership_hash", "previous"):
        ok = is_hex32(value)
    elif name in ("", "add", "audit", "change", "labels", "limits", "logs", "membership", "principal"):
        ok = isinstance(value, dict) and (value or name != "labels")
        for member, v in value.items() if ok else ():
            check_form(v, "label" if name == "labels" else "limit" if name == "limits" else member)
    elif name in ("keys", "new_keys", "new_receipt_keys", "principals", "receipt_keys", "uses"):
        ok = isinstance(value, list) and (value or "receipt" not in name)
        for v in value if ok else ():
            check_form(v, "" if name == "principals" or name == "keys" and isinstance(v, dict) else "element")
    elif name in ("admin_threshold", "epoch", "limit", "membership_count", "node_quorum", "quorum", "threshold", "trust_level"):
        ok = is_int(value, 1 if name == "trust_level" else 0)
    else:
        ok = isinstance(value, str) and (value or name != "name")
    need(ok, "syntax", name)


def parse_change(payload):
    p = parse_versioned(payload)
    members(p, "change cluster cluster_identity_hash epoch membership_count membership_hash previous protocol_version")
    check_form(p)
    c = p["change"]
    need(c.get("kind") in CHANGES, "syntax", "kind")
    required, allowed = CHANGES[c["kind"]]
    members(c, required + " kind", allowed)
    need(is_id(p["cluster"]) and p["epoch"] >= 1 and is_id(c.get("id", "x")), "value")
    kind = c["kind"]
    for name in {"admin_threshold", "threshold", "node_quorum", "quorum"} & set(c):
        need(is_int(c[name], 1, MAX_THRESHOLD if "threshold" in name else MAX_PRINCIPALS), "value", name)
    if "limits" in c:
        check_limits(c["limits"])
    if kind == "genesis":
        members(c["logs"], "audit membership")
        for which, log in c["logs"].items():
            members(log, "keys origin", "receipt_keys")
            need(log["origin"] == p["cluster"] + "/" + which and log.get("receipt_keys") != [], "value", "origin")
            check_log_keys(log["origin"], log["keys"], log.get("receipt_keys", []))
        ids = [q.get("id") for q in c["principals"]]
        for q in c["principals"]:
            check_principal(q)
        need(ids == sorted(set(ids)), "value", "principals")
    if kind == "add_principal":
        check_principal(c["principal"])
    if kind == "update_principal":
        check_description(c)
    if kind == "rotate_key":
        need({"add", "remove"} & set(c) and is_hex32(c.get("remove", "0" * 64)), "value", "add or remove")
        if "add" in c:
            check_key(c["add"])
    if kind == "set_protocol_version":
        need(re.fullmatch(r"(0|[1-9][0-9]*)\.(0|[1-9][0-9]*)", c["version"]), "value", "version")
    need(c.get("log", "audit") in ("audit", "membership"), "value", "log")
    return p


def follow(state, entry):
    """The state after one more entry of the membership log; state is None before genesis."""
    try:
        need(len(entry) <= MAX_CHANGE, "envelope")
        envelope = Envelope(entry, TYPE)
    except Refused as error:
        raise Refused("envelope", str(error)) from None
    p = parse_change(envelope.payload)
    before, c = state or State(p["cluster"]), p["change"]
    need(p["cluster"] == before.cluster, "cluster", p["cluster"])
    first = c["kind"] == "genesis" and p["epoch"] == 1 and p["previous"] == "0" * 64
    need(first if before.epoch == 0 else c["kind"] != "genesis", "genesis")
    need(p["epoch"] > before.epoch, "replay")
    need(p["epoch"] == before.epoch + 1, "gap")
    need(p["previous"] == before.previous.hex(), "previous")
    after = before.copy()
    added = {key_id(raw): raw for raw in after.apply(c)}
    need(after.threshold <= len({i for i, _ in after.holders("change", "admin").values()}), "lock_out")
    admins = (after if before.epoch == 0 else before).holders("change", "admin")
    for keyid, signature in envelope.signatures.items():
        need(keyid in admins or keyid in added, "signer", keyid)
        public = admins[keyid][1] if keyid in admins else added[keyid]
        need(verify(public, envelope.signed, signature), "signature", keyid)
    need(set(added) <= set(envelope.signatures), "possession")
    signed = {admins[k][0] for k in envelope.signatures if k in admins}
    need(len(signed) >= (before.threshold or after.threshold), "threshold", str(len(signed)))
    need(after.content() != before.content(), "no_change")
    after.epoch, after.previous, after.change = p["epoch"], sha256(envelope.payload), c
    need(p["membership_count"] == len(after.principals) and p["membership_hash"] == after.membership_hash().hex()
         and p["cluster_identity_hash"] == after.identity_hash().hex(), "hash")
    return after


class History:
    """The states of a membership log by epoch, and what its changes revoked."""

    def __init__(self, entries):
        self.states, self.revoked_at, held = {}, {}, {}
        state = None
        for entry in entries:
            before, state = state, follow(state, entry)
            self.states[state.epoch] = state
            then = before.holders(None) if before else {}
            rotation = state.change["kind"] == "rotate_key" and {"add", "remove"} <= set(state.change)
            for keyid, (who, _) in then.items():
                if keyid not in state.holders(None):
                    held.setdefault(who, []).append(keyid)
                    if not rotation:
                        self.revoked_at.setdefault(keyid, []).append(state.epoch)
            if state.change["kind"] == "remove_principal":
                for keyid in held.pop(state.change["id"], []):
                    if state.epoch not in self.revoked_at.setdefault(keyid, []):
                        self.revoked_at[keyid].append(state.epoch)

    def revoked(self, keyid, since, by):
        return any(since < epoch <= by for epoch in self.revoked_at.get(keyid, []))


# Proofs and schedule


def shows_leaf(leaf, root, count):
    raw = leaf["leaf_data"].encode()
    proof = [bytes.fromhex(h) for h in leaf["inclusion_proof"]]
    return included(leaf_hash(raw), leaf["index"], count, proof, root)


def shows_absent(name, leaves, root, count):
    if not all(shows_leaf(leaf, root, count) for leaf in leaves):
        return False
    if count == 0:
        return not leaves and root == tree_root([])
    ids = [parse_json(leaf["leaf_data"].encode())["id"] for leaf in leaves]
    at = [leaf["index"] for leaf in leaves]
    if len(leaves) == 2:
        return at[0] + 1 == at[1] and ids[0] < name < ids[1]
    return len(leaves) == 1 and (at[0] == 0 and name < ids[0] or at[0] == count - 1 and ids[0] < name)


def score(execution, node):
    return H("schedule-score", execution, node)


def rank(execution, eligible):
    return sorted(eligible, key=lambda node: (score(execution, node), node))


def attempt(ranking, number, nodes, step, max_assigned):
    return ranking[:min(nodes + number * step, max_assigned)]


def schedule_hash(execution, membership_hash, first):
    return H("schedule", execution, membership_hash, first)
