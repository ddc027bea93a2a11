"""docs/formats/membership-proof.md: one principal at one epoch, offline."""

from . import membership, note
from .base import (Envelope, VERSION, canonical, included, is_id, is_int, leaf_hash, members, need, parse_json, tree_root,
                   stage, unbase64)

TYPE = "tallystick.membership-proof"
MAX_FILE, MAX_LEAF, MAX_HASHES = 1 << 20, 8192, 64


class Proof:
    def __init__(self, data):
        """Step 1 without what the caller asked for."""
        with stage("format", "version"):
            need(len(data) <= MAX_FILE and data.endswith(b"\n"), "format", "size or newline")
            p = parse_json(data[:-1])
            need(isinstance(p, dict) and p.get("type") == TYPE, "format", "type")
            version = p.get("protocol_version")
            need(not isinstance(version, str) or version == VERSION, "version", str(version))
            members(p, "change change_proof checkpoint epoch genesis_proof leaves member principal protocol_version type")
            need(isinstance(p["member"], bool) and is_id(p["principal"]) and is_int(p["epoch"], 1), "format", "question")
            need(isinstance(p["leaves"], list) and canonical(p) + b"\n" == data, "format", "canonical form")
            self.member, self.principal, self.epoch = p["member"], p["principal"], p["epoch"]
            self.change, self.checkpoint = unbase64(p["change"]), unbase64(p["checkpoint"])
            need(1 <= len(self.change) <= membership.MAX_CHANGE and 1 <= len(self.checkpoint) <= note.MAX_NOTE, "format", "size")
            self.change_proof, self.genesis_proof = hashes(p["change_proof"]), hashes(p["genesis_proof"])
            self.leaves = []
            for leaf in p["leaves"]:
                members(leaf, "data inclusion_proof index")
                raw = unbase64(leaf["data"])
                need(1 <= len(raw) <= MAX_LEAF and is_int(leaf["index"]), "format", "leaf")
                self.leaves.append((leaf["index"], raw, hashes(leaf["inclusion_proof"])))
            need(len(self.leaves) == 1 if self.member else len(self.leaves) <= 2, "format", "leaves")

    def verify(self, policy, genesis, principal, epoch, changes=None):
        """The other steps; returns the leaf data of a member, None of somebody who is none, and the last epoch."""
        need((self.principal, self.epoch) == (principal, epoch), "other")
        with stage("checkpoint"):
            checkpoint, _ = note.Policy(policy).verify(self.checkpoint)
        size, root = checkpoint.size, checkpoint.root
        need(included(leaf_hash(genesis), 0, size, self.genesis_proof, root), "genesis")
        need(included(leaf_hash(self.change), epoch - 1, size, self.change_proof, root), "change")
        with stage("change"):
            change = membership.parse_change(Envelope(self.change, membership.TYPE).payload)
        cluster = membership.follow(None, genesis).cluster
        need(change["epoch"] == epoch and change["cluster"] == cluster, "change", "of another epoch or cluster")
        with stage("leaf"):
            self.check_leaves(bytes.fromhex(change["membership_hash"]), change["membership_count"])
        if changes is not None:
            need(len(changes) >= size, "history", "too few")
            with stage("history"):
                history = membership.History(changes[:size])
            need(tree_root([leaf_hash(c) for c in changes[:size]]) == root, "history", "root")
            logs = [s.logs["membership"] for s in history.states.values()]
            named = {k for log in logs if log["origin"] == checkpoint.origin for k in log["keys"]}
            keys = [k for k in note.Policy(policy).logs if k.name == checkpoint.origin and k.text in named]
            need(note.Note(self.checkpoint).signed_by_log(keys), "log_keys")
        return (self.leaves[0][1] if self.member else None), size

    def check_leaves(self, root, count):
        ids = []
        for index, raw, proof in self.leaves:
            need(included(leaf_hash(raw), index, count, proof, root), "leaf", "inclusion")
            principal = parse_json(raw)
            membership.check_principal(principal)
            need(canonical(principal) == raw, "leaf", "canonical form")
            ids.append(principal["id"])
        at = [index for index, _, _ in self.leaves]
        if self.member:
            need(ids == [self.principal], "leaf", "of another principal")
        elif len(ids) == 2:
            need(at[0] + 1 == at[1] and ids[0] < self.principal < ids[1], "leaf", "not its neighbours")
        elif len(ids) == 1:
            need(at[0] == 0 and self.principal < ids[0] or at[0] == count - 1 and ids[0] < self.principal, "leaf", "not at an end")
        else:
            need(count == 0 and root == tree_root([]), "leaf", "none")


def hashes(texts):
    need(isinstance(texts, list) and len(texts) <= MAX_HASHES, "format", "proof")
    raw = [unbase64(text) for text in texts]
    need(all(len(h) == 32 for h in raw), "format", "hash")
    return raw
