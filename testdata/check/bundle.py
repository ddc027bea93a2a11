"""docs/formats/bundle.md: a proof bundle end to end."""

import base64
import re

from . import fold, membership, note
from .base import VERSION, Refused, consistent, included, is_id, leaf_hash, need, sha256, stage, tree_root
from .record import MAX_BUNDLE, commitment, decode, parse_opening, parse_record

MAX_RECORDS, MAX_ANCESTORS, MAX_CHANGES, MAX_PROOF = 4096, 256, 100000, 64

# Kinds of closing records, and the state that the records before them leave.
CLOSING = {"provenance": "complete", "divergence": "diverged", "cancellation": "open", "expired": "open"}
BEFORE = {"contract", "request", "epoch", "reschedule", "attestation"}


class rule:
    """A record that the fold refuses is refused with this code, and the fold's code as its rule."""

    def __init__(self, code):
        self.code = code

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is Refused:
            refused = Refused(self.code, str(error))
            refused.rule = error.code
            raise refused from None


def check_form(part):
    """The ranges of what a bundle and an ancestor in it have in common."""
    records = part.get("records", [])
    need(len(part.get("execution_id", b"")) == 32 and 1 <= len(part.get("request_checkpoint", b"")) <= note.MAX_NOTE, "format")
    need(1 <= len(records) <= MAX_RECORDS, "format", "records")
    proofs = [part.get("consistency_proof", []), *(r.get("inclusion_proof", []) for r in records)]
    need(all(len(p) <= MAX_PROOF and all(len(h) == 32 for h in p) for p in proofs), "format", "proof")
    indexes = [r.get("index", 0) for r in records]
    need(indexes == sorted(set(indexes)), "format", "records are not ascending")
    for r in records:
        parse_opening(r.get("opening", b""))


class Bundle:
    def __init__(self, schema, data):
        """Step 1 without what the caller asked for."""
        self.schema = schema
        need(len(data) <= MAX_BUNDLE and data.startswith(b"tallystick-bundle/"), "format", "first line")
        need(data.startswith(b"tallystick-bundle/1.0 sha256:"), "version", "first line")
        m = re.match(rb"[^ ]+ sha256:([0-9a-f]{64})\n", data)
        need(m, "format", "first line")
        body = data[m.end():]
        need(m[1].decode() == sha256(body).hex(), "damaged")
        with stage("format", "version"):
            b = self.body = decode(schema, "ProofBundle", body)
            need(b.get("protocol_version") == VERSION, "version", str(b.get("protocol_version")))
            external, changes, ancestors = b.get("external_membership", False), b.get("membership_changes", []), b.get("ancestors", [])
            need(is_id(b.get("cluster")), "format", "cluster")
            need(external == (not changes) and len(changes) <= MAX_CHANGES and len(ancestors) <= MAX_ANCESTORS, "format", "lists")
            need(all(1 <= len(b.get(n + "_checkpoint", b"")) <= note.MAX_NOTE for n in ("audit", "membership"))
                 and all(1 <= len(c) <= membership.MAX_CHANGE for c in changes), "format", "size")
            for part in (b, *ancestors):
                check_form(part)
            last = [a["records"][-1].get("index", 0) for a in ancestors]
            need(last == sorted(set(last)), "format", "ancestors are not ascending")
            need(sum(len(part["records"]) for part in (b, *ancestors)) <= MAX_RECORDS, "format", "records of all")

    def verify(self, genesis, audit_policy, membership_policy, asked=None, changes=()):
        """The rest, in order; returns the report, but for what it says in words.

        changes: entries of the membership log, for a bundle that leaves them out.
        """
        b, report = self.body, {"cluster": self.body["cluster"]}
        need(asked in (None, b["execution_id"].hex()), "other_execution", asked)
        self.policies = {"audit": note.Policy(audit_policy), "membership": note.Policy(membership_policy)}
        need(all(len({k.name for k in p.logs}) == 1 for p in self.policies.values()), "trust")
        accepted = {}
        for name, log in (("audit", "audit"), ("membership", "membership"), ("request", "audit")):
            accepted[name], report[name + "_checkpoint"] = self.accept(name, log, b)
        self.audit, self.membership = accepted["audit"], accepted["membership"]
        self.replay_membership(genesis, changes)
        for name, log in (("audit", "audit"), ("request", "audit"), ("membership", "membership")):
            self.check_log_key(log, b[name + "_checkpoint"], accepted[name].origin)
        main = self.prove(b, accepted["request"])
        report["execution"] = describe(main)
        if b.get("ancestors"):
            report["ancestors"] = [describe(ex) for ex in self.prove_ancestors(main)]
        report["verified"] = main.state == "complete"
        return report if report["verified"] else dict(report, failure="no_result")

    def accept(self, name, log, part):
        """Step 2: a checkpoint under its log's policy, and what the report says of it."""
        with stage(name + "_checkpoint"):
            c, times = self.policies[log].verify(part[name + "_checkpoint"])
        return c, {"origin": c.origin, "size": c.size, "root_hash": base64.b64encode(c.root).decode(),
                   "cosignatures": [{"witness": w, "timestamp": t} for w, t in times.items()]}

    def replay_membership(self, genesis, changes):
        """Step 3 but for the keys."""
        b = self.body
        if b.get("external_membership"):
            need(len(changes) >= self.membership.size, "external_membership")
            changes = changes[:self.membership.size]
        else:
            changes = b["membership_changes"]
        need(changes and changes[0] == genesis, "genesis")
        need(len(changes) == self.membership.size, "membership", "size")
        with stage("trust"):
            membership.follow(None, genesis)
        with stage("membership"):
            self.history = membership.History(changes)
        need(self.history.states[1].cluster == b["cluster"], "other_execution", b["cluster"])
        need(tree_root([leaf_hash(c) for c in changes]) == self.membership.root, "membership", "root")
        self.changes = changes

    def check_log_key(self, log, checkpoint, origin):
        """A key that its policy and some epoch name for the origin signed the checkpoint."""
        known = {k for s in self.history.states.values() if s.logs[log]["origin"] == origin for k in s.logs[log]["keys"]}
        keys = [k for k in self.policies[log].logs if k.name == origin and k.text in known]
        need(note.Note(checkpoint).signed_by_log(keys), "log_keys", log)

    def prove(self, part, request):
        """Steps 4 to 7 for the bundle's execution or an ancestor; returns it folded."""
        need(consistent(request.size, request.root, self.audit.size, self.audit.root, part.get("consistency_proof", [])), "consistency")
        entries = []
        for r in part["records"]:
            salt, raw = parse_opening(r["opening"])
            index, entry = r.get("index", 0), commitment(salt, raw)
            need(included(leaf_hash(entry), index, self.audit.size, r.get("inclusion_proof", []), self.audit.root), "inclusion", index)
            with stage("record"):
                entries.append((index, entry, *parse_record(self.schema, raw)))
        check_selection([kind for _, _, kind, _ in entries])
        folded = fold.Fold(self.body["cluster"], self.changes, self.history, partial=True)

        def apply(index, entry, kind, message):
            code = "provenance" if kind in ("provenance", "divergence") else "rules"
            with rule(code):
                evidence, about = folded.apply(index, entry, kind, message)
            need(not evidence and (about is None or about.id == part["execution_id"]), code, index)

        for one in entries[:-1]:
            apply(*one)
        ex, closing = folded.executions.get(part["execution_id"]), entries[-1][2]
        need(ex, "rules", "no request")
        need(ex.state == CLOSING[closing], "incomplete", f"{ex.state}, closed by {closing}")
        apply(*entries[-1])
        ex.closed = entries[-1][0]
        if ex.state == "complete":
            root = {"origin": request.origin, "size": request.size, "root_hash": request.root}
            need(ex.derived["audit_root"] == root, "provenance", "request checkpoint")
        return ex

    def prove_ancestors(self, main):
        """Step 8; returns the ancestors in their order."""
        proven = {}
        for part in self.body["ancestors"]:
            request, _ = self.accept("request", "audit", part)
            self.check_log_key("audit", part["request_checkpoint"], request.origin)
            ex = self.prove(part, request)
            need(ex.id not in proven and ex.id != main.id, "ancestor", "twice")
            proven[ex.id] = ex
        reached, queue = set(), [main]
        while queue:  # ends, as a parent is decided before its child is requested
            child = queue.pop()
            for i, named in enumerate(map(bytes.fromhex, child.submission.get("parents", []))):
                parent = proven.get(named)
                need(parent and parent.tenant == child.tenant and parent.state == "complete" and parent.outcome["kind"] == "ok"
                     and parent.decided < child.requested, "ancestor", named.hex())
                need(child.outputs is None or child.outputs[i] == parent.outcome["output_digest"], "ancestor", "output")
                if named not in reached:
                    reached.add(named)
                    queue.append(parent)
        need(reached == set(proven), "ancestor", "nobody's parent")
        return list(proven.values())


def check_selection(kinds):
    """Which records there are, whether or not each is valid where it stands."""
    need(kinds[-1] in CLOSING and set(kinds[:-1]) <= BEFORE, "rules", "kinds")
    need(kinds.count("contract") == kinds.count("request") == 1, "rules", "one of each")
    need(kinds[:kinds.index("request")].count("epoch") == 1, "rules", "epochs before the request")


def describe(ex):
    """An execution in the words of the verifier's report."""
    s, outputs = ex.submission, ex.outputs
    parents = [{"id": p} if outputs is None else {"id": p, "output_digest": outputs[i]} for i, p in enumerate(s.get("parents", []))]
    nodes, dissent = [], []
    for node, index, digest, i in ex.told:
        one = {"id": node, "attestation_digest": digest.hex(), "index": index}
        if "rewritten_module" in i:
            one["rewritten_module"] = i["rewritten_module"]
        if node in ex.agreeing:
            nodes.append(one)
            continue
        void = {"void": True} if len(ex.votes[node]) > 1 else {}
        dissent.append({**one, "outcome": i["outcome"], "result_digest": i["result_digest"], **void})
    out = {
        "id": ex.id.hex(), "state": ex.state, "tenant": ex.tenant, "contract_hash": ex.contract_hash.hex(),
        "contract_name": ex.terms["name"], "contract_version": ex.terms["version"], "module_digest": ex.terms["module"],
        "input_digest": s["input"], "epoch": ex.pinned.epoch, "membership_hash": ex.pinned.membership_hash().hex(),
        "cluster_schedule_hash": ex.schedule.hex(), "attempt": ex.attempt, "assigned": ex.assigned(ex.attempt),
        "agreement": ex.terms["agreement"], "nodes": sorted(nodes, key=lambda n: n["id"]), "chain_head": ex.chain.hex(),
        "chain_length": ex.linked, "request_index": ex.requested, "completed_at": ex.decided, "provenance_index": ex.closed}
    heard = {node for node, *_ in ex.told}
    passed_over = [n for n in ex.assigned(ex.attempt - 1) if n not in heard] if ex.attempt else []
    out.update({n: v for n, v in (("parents", parents), ("dissent", dissent), ("passed_over", passed_over)) if v})
    if ex.state == "complete":
        out.update(outcome=ex.outcome, **{n: ex.derived[n].hex() for n in ("result_digest", "execution_proof")})
    return out
