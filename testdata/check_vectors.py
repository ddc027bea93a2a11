#!/usr/bin/env python3
"""Checks every golden vector of this folder with the second implementation in check/.

    python3 testdata/check_vectors.py        prints what was checked per file

Needs Python 3.9 or later and nothing else. Exits 1 when a vector and the
implementation differ, and when there is a vector file that it does not know.
"""

import base64
import collections
import hashlib
import json
import pathlib
import sys
import traceback

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from check import base, bundle, contract, ed25519, evidence, execution, fold, member, membership, note, record  # noqa: E402

# Folders whose pages are no formats: WebAssembly modules, and what a test of one package keeps.
ELSEWHERE = {"check", "controlapi", "logserver", "sandbox", "rewriting"}
PROTO = HERE.parent / "proto" / "tallystick" / "v1"

raw = bytes.fromhex
checks, counts, faults = {}, collections.Counter(), []


def checker(*names):
    """Registers a function for vector files; it gets each file's name and parsed JSON."""
    def register(function):
        checks.update({name: function for name in names})
        return function
    return register


def load(name):
    data = (HERE / name).read_bytes()
    return json.loads(data.decode()) if name.endswith(".json") else data


def same(what, got, want):
    counts["values"] += 1
    if got != want:
        faults.append(f"{what}: got {got!r}, want {want!r}"[:600])


def accepts(what, function, *args):
    """Calls function, which must not refuse; returns its result."""
    counts["accepted"] += 1
    try:
        return function(*args)
    except Exception as error:  # a crash of the checker is a difference like any other
        faults.append(f"{what}: refused: {error!r} {traceback.format_exc(limit=-2)}")
        return None


def refuses(what, code, function, *args, **named):
    """Calls function, which must refuse with the code (any code when it is None), and with the rule when that is named."""
    counts["refused"] += 1
    try:
        function(*args)
    except base.Refused as error:
        if code not in (None, error.code):
            faults.append(f"{what}: refused as {error}, want {code}")
        if getattr(error, "rule", None) != named.get("rule", getattr(error, "rule", None)):
            faults.append(f"{what}: refused for {error}, want rule {named['rule']}")
    except Exception as error:
        faults.append(f"{what}: failed: {error!r} {traceback.format_exc(limit=-2)}")
    else:
        faults.append(f"{what}: accepted, want {code}")


def check_keys(keys):
    """Public keys and key ids from their seeds."""
    for name, key in keys.items():
        same(f"{name} public key", ed25519.public_key(raw(key["seed"])).hex(), key["public_key"])
        same(f"{name} key id", base.key_id(raw(key["public_key"])), key["keyid"])


def same_signatures(what, envelope, seeds):
    """Ed25519 signs deterministically, so whoever has the seeds makes the same signatures."""
    for keyid, signature in envelope.signatures.items():
        same(what + " signature", ed25519.sign(seeds[keyid], envelope.signed).hex(), signature.hex())


@checker("record/records.json")
def records(name, vectors):
    schema = record.parse_proto((PROTO / "record.proto").read_text())
    kinds = [f.name for f in schema["Record"].values() if f.oneof]
    same("kinds with a vector", [v["kind"] for v in vectors], kinds)

    def from_json(message, values):
        """The decoded form of a message that is given in protobuf's JSON form."""
        def one(field, v):
            if field.kind in schema:
                return from_json(field.kind, v)
            return base64.b64decode(v) if field.kind == "bytes" else int(v) if field.kind == "uint64" else v
        fields = {f.name: f for f in schema[message].values()}
        return {n: [one(fields[n], e) for e in v] if fields[n].repeated else one(fields[n], v) for n, v in values.items()}

    for v in vectors:
        parsed = accepts(v["kind"], record.parse_record, schema, raw(v["record"]))
        if parsed:
            same(v["kind"], parsed, (v["kind"], from_json("Record", v["message"])))
            same(v["kind"] + " encoded", record.encode(schema, "Record", parsed[1]).hex(), v["record"])
            key = record.dedup_key(v["kind"], parsed[1][v["kind"]])
            same(v["kind"] + " dedup", key and key.hex(), v.get("dedup"))
        same(v["kind"] + " entry", record.commitment(raw(v["salt"]), raw(v["record"])).hex(), v["entry"])
        for cut in range(0, len(raw(v["record"])), 7):  # no prefix of a record is that record
            damaged = raw(v["record"])[:cut]
            refuses(f"{v['kind']} cut at {cut}", None, record.parse_record, schema, damaged)


@checker("record/refused.json")
def wire(name, vectors):
    schema = record.parse_proto((HERE / "record" / "refused.proto").read_text())
    for v in vectors:
        refuses(v["name"], "canonical", record.decode, schema, "Every", raw(v["bytes"]))


@checker("record/accepted.json")
def accepted_wire(name, vectors):
    schema = record.parse_proto((HERE / "record" / "refused.proto").read_text())
    for v in vectors:
        value = accepts(v["name"], record.decode, schema, "Every", raw(v["bytes"]))
        if value is not None:
            same(v["name"], record.encode(schema, "Every", value).hex(), v["bytes"])


@checker("record/invalid.json")
def invalid_records(name, vectors):
    schema = record.parse_proto((PROTO / "record.proto").read_text())
    for v in vectors:
        message = accepts(v["error"], record.decode, schema, "Record", raw(v["record"]))
        same(v["error"], record.encode(schema, "Record", message).hex(), v["record"])
        refuses(v["error"], v["code"], record.parse_record, schema, raw(v["record"]))


@checker("record/openings.json")
def openings(name, vectors):
    schema = record.parse_proto((PROTO / "record.proto").read_text())
    for v in vectors:
        data = raw(v["opening"])
        data += bytes(max(0, v.get("padded_to", 0) - len(data)))
        if "entry" not in v:
            refuses(v["name"], v["code"], record.parse_opening, data)
            continue
        salt, bare = accepts(v["name"], record.parse_opening, data)
        same(v["name"] + " entry", record.commitment(salt, bare).hex(), v["entry"])
        if "code" in v:
            refuses(v["name"], v["code"], record.parse_record, schema, bare)
        else:
            accepts(v["name"], record.parse_record, schema, bare)


@checker("json/strict.json")
def strict_json(name, vectors):
    for v in vectors["accepted"]:
        value = accepts(v["name"], base.parse_json, v["text"].encode())
        if value is not None:
            same(v["name"], base.canonical(value).decode(), v["canonical"])
    for v in vectors["refused"]:
        data = base64.b64decode(v["text_base64"]) if "text_base64" in v else v.get("text", "").encode()
        refuses(v["name"], "syntax", lambda d: base.members(base.parse_json(d), "v", "b l n o"), data)


@checker("dsse/envelope.json")
def envelopes(name, vectors):
    kind = "application/vnd.example+json"
    keys = {key["keyid"]: raw(key["public_key"]) for key in vectors["keys"]}
    seeds = {key["keyid"]: raw(key["seed"]) for key in vectors["keys"]}
    check_keys({key["keyid"]: key for key in vectors["keys"]})
    for v in vectors["valid"]:
        envelope = accepts(v["name"], base.Envelope, v["envelope"].encode(), kind)
        if envelope:
            accepts(v["name"], envelope.verify, keys)
            same(v["name"] + " payload", envelope.payload.hex(), v.get("payload", ""))
            same(v["name"] + " PAE", envelope.signed.hex(), v["pae"])
            same_signatures(v["name"], envelope, seeds)
    for v in vectors["invalid"]:
        refuses(v["name"], v["error"], lambda e: base.Envelope(e.encode(), kind).verify(keys), v["envelope"])
    for public in vectors["weak_public_keys"]:
        same("weak key " + public, ed25519.usable(raw(public)), False)


@checker("contract/contract.json", "contract/contract-metered.json", "contract/retirement.json", "contract/submission.json",
         "contract/cancellation.json")
def statements(name, vectors):
    kind = name.split("/")[1].split(".")[0].split("-")[0]
    check_keys(vectors["keys"])
    keys = {tenant: {key["keyid"]: raw(key["public_key"])} for tenant, key in vectors["keys"].items()}
    seeds = {key["keyid"]: raw(key["seed"]) for key in vectors["keys"].values()}
    for v in vectors["valid"]:
        got = accepts(v["name"], contract.verify, kind, v["envelope"].encode(), vectors["cluster"], keys)
        if got:
            same(v["name"] + " payload", got[0].decode(), v["payload"])
            same(v["name"] + " hash", base.sha256(got[0]).hex(), v["hash"])
            same_signatures(v["name"], base.Envelope(v["envelope"].encode(), contract.TYPE % kind), seeds)
            if kind == "submission":
                same(v["name"] + " id", contract.execution_id(got[1]).hex(), v["execution_id"])
    for v in vectors["invalid"]:
        refuses(v["name"], v["code"], contract.verify, kind, v["envelope"].encode(), vectors["cluster"], keys)


@checker("contract/outcome.json")
def outcomes(name, vectors):
    for v in vectors["valid"]:
        value = base.parse_json(v["outcome"].encode())
        accepts(v["name"], contract.check_outcome, value)
        same(v["name"], contract.result_digest(value).hex(), v["result_digest"])
        same(v["name"] + " canonical", base.canonical(value).decode(), v["outcome"])
    for v in vectors["invalid"]:
        refuses(v["name"], v["code"], lambda o: contract.check_outcome(base.parse_json(o.encode())), v["outcome"])
    for v in vectors["under_contract"]:
        outcome, terms = base.parse_json(v["outcome"].encode()), contract.parse_payload("contract", v["contract"].encode())
        accepts(v["name"], contract.check_outcome, outcome)
        same(v["name"] + " possible", contract.possible(outcome, terms), "code" not in v)


@checker("membership/chain.json")
def chain(name, vectors):
    keys = vectors["keys"]
    check_keys(keys)
    ids = {n: key["keyid"] for n, key in keys.items()}
    seeds = {key["keyid"]: raw(key["seed"]) for key in keys.values()}
    state, leaves = None, []
    for v in vectors["changes"]:
        what, entry, want = f"epoch {v['epoch']}", v["envelope"].encode(), v["state"]
        state = accepts(what, membership.follow, state, entry)
        if not state:
            return
        envelope = base.Envelope(entry, membership.TYPE)
        leaves.append(base.leaf_hash(entry))
        same_signatures(what, envelope, seeds)
        same(what + " signers", list(envelope.signatures), [ids[n] for n in v["signed_by"]])
        same(what + " payload", envelope.payload.decode(), v["payload"])
        same(what, (state.epoch, state.change["kind"], state.previous.hex(), base.tree_root(leaves).hex()),
             (v["epoch"], v["kind"], v["payload_digest"], v["log_root"]))
        got = {"admin_threshold": state.threshold, "cluster_identity_hash": state.identity_hash().hex(),
               "limits": base.canonical(state.limits).decode(), "logs": base.canonical(state.logs).decode(),
               "membership_count": len(state.principals), "membership_hash": state.membership_hash().hex(),
               "node_quorum": state.quorum, "protocol_version": state.version,
               "principals": [{"id": i, "leaf_data": leaf.decode(), "leaf_hash": base.leaf_hash(leaf).hex()}
                              for i, leaf in zip(sorted(state.principals), state.leaves())]}
        for member in sorted(set(got) | set(want)):
            same(f"{what} {member}", got.get(member), want.get(member))
    history = membership.History([v["envelope"].encode() for v in vectors["changes"]])
    for v in vectors["key_validity"]:
        valid = [e for e, s in history.states.items() if ids[v["key"]] in s.keys(v["principal"], v["use"])]
        same(f"validity of {v['key']} for {v['use']}", valid, v["valid_epochs"])
    for v in vectors["revocations"]:
        same(f"revoked {v}", history.revoked(ids[v["key"]], v["from_epoch"], v["by_epoch"]), v["revoked"])


@checker("evidence/evidence.json")
def evidence_files(name, vectors):
    for v in vectors["checkpoints"]:
        if v["finding"] == "nothing":
            refuses(v["name"], "nothing", evidence.judge_checkpoints, v["file"], vectors["log_vkeys"])
        else:
            same(v["name"], accepts(v["name"], evidence.judge_checkpoints, v["file"], vectors["log_vkeys"]), v["finding"])
    for v in vectors["changes"]:
        if "refused" in v:
            refuses(v["name"], v["refused"], evidence.judge_change, v["file"], vectors["genesis"].encode())
        else:
            got = accepts(v["name"], evidence.judge_change, v["file"], vectors["genesis"].encode())
            same(v["name"], got, (v.get("index", 0), v["code"]))


@checker("membership/refused.json")
def refused(name, vectors):
    history = membership.History([v["envelope"].encode() for v in load("membership/chain.json")["changes"]])
    for v in vectors["refused"]:
        refuses(v["name"], v["code"], membership.follow, history.states.get(v["after_epoch"]), v["envelope"].encode())


@checker("membership/proofs.json")
def proofs(name, vectors):
    history = membership.History([v["envelope"].encode() for v in load("membership/chain.json")["changes"]])
    for group in ("members", "absent", "refused_absent"):
        for v in vectors[group]:
            what = f"{group} {v['id']} at {v['epoch']} {[leaf['index'] for leaf in v['leaves']]}"
            state, root = history.states[v["epoch"]], raw(v["membership_hash"])
            same(what, (root, v["membership_count"]), (state.membership_hash(), len(state.principals)))
            if group == "members":
                leaf = v["leaves"][0]
                same(what, (len(v["leaves"]), json.loads(leaf["leaf_data"])["id"]), (1, v["id"]))
                same(what, membership.shows_leaf(leaf, root, v["membership_count"]), True)
            else:
                same(what, membership.shows_absent(v["id"], v["leaves"], root, v["membership_count"]), group == "absent")


@checker("schedule/schedules.json")
def schedules(name, vectors):
    state = membership.follow(None, vectors["genesis"].encode())
    same("membership hash", state.membership_hash().hex(), vectors["membership_hash"])
    for n, v in enumerate(vectors["schedules"]):
        what, q, execution_id = f"schedule {n}", v["request"], raw(v["execution_id"])
        eligible = state.eligible(q["min_trust_level"], q["node_labels"] or {})
        same(what + " eligible", eligible, v["eligible"] or [])
        same(what + " too few", len(eligible) < q["nodes"], v["too_few_eligible"])
        if v["too_few_eligible"]:
            same(what, {"ranking", "attempts", "cluster_schedule_hash"} & set(v), set())
            continue
        ranking, last = membership.rank(execution_id, eligible), min(q["max_assigned"], len(eligible))
        same(what + " ranking", [{"node": i, "score": membership.score(execution_id, i).hex()} for i in ranking[:last]],
             v["ranking"])
        attempts = [membership.attempt(ranking, a, q["nodes"], q["step"], q["max_assigned"]) for a in range(len(v["attempts"]))]
        same(what + " attempts", attempts, v["attempts"])
        same(what + " last attempt", len(attempts[-1]), last)
        same(what + " hash", membership.schedule_hash(execution_id, state.membership_hash(), attempts[0]).hex(),
             v["cluster_schedule_hash"])


@checker("provenance/statement.json", "provenance/hashes.json")
def provenance(name, vectors):
    payload = vectors["statement"].encode() if name.endswith("hashes.json") else (HERE / name).read_bytes()
    parsed = accepts("statement", execution.parse_statement, payload)
    if not parsed or name.endswith("statement.json"):
        return
    same("statement.json", payload, (HERE / "provenance/statement.json").read_bytes())
    s, x, i, _ = parsed
    same("canonical form", base.canonical(s), payload)
    execution_id = raw(s["predicate"]["runDetails"]["metadata"]["invocationId"])
    start = execution.chain_start(execution_id)
    same("attestation digest", base.sha256(payload).hex(), vectors["attestation_digest"])
    same("result digest", contract.result_digest(i["outcome"]).hex(), vectors["result_digest"])
    same("execution proof", execution.execution_proof(execution_id, raw(x["contract"]), raw(x["input"]), raw(
        i["cluster_schedule_hash"]), raw(i["result_digest"])).hex(), vectors["execution_proof"])
    same("chain start", start.hex(), vectors["chain_start"])
    same("chain", execution.chain_next(start, 7, b"\xaa" + bytes(31)).hex(), vectors["chain_after_7_entry_a"])


@checker("provenance/attestations.json")
def attestations(name, vectors):
    check_keys(vectors["keys"])
    keys = {vectors["keys"]["node-2"]["keyid"]: raw(vectors["keys"]["node-2"]["public_key"])}
    seeds = {key["keyid"]: raw(key["seed"]) for key in vectors["keys"].values()}
    for v in vectors["valid"]:
        got = accepts(v["name"], execution.open_attestation, v["envelope"].encode(), keys)
        if got:
            payload, (_, _, i, _) = got
            same(v["name"] + " payload", payload.decode(), v["payload"])
            same(v["name"] + " digests", (base.sha256(payload).hex(), i["result_digest"]),
                 (v["attestation_digest"], v["result_digest"]))
            same_signatures(v["name"], base.Envelope(v["envelope"].encode(), record.ATTESTATION), seeds)
    for v in vectors["invalid"]:
        same(v["name"] + " code", v["code"], "attestation_invalid")
        refuses(v["name"], v["reason"], execution.open_attestation, v["envelope"].encode(), keys)


@checker("provenance/histories.json")
def histories(name, vectors):
    schema = record.parse_proto((PROTO / "record.proto").read_text())
    for h in vectors["histories"]:
        f = fold.Fold(h["cluster"], [e.encode() for e in vectors["membership_logs"][h["membership_log"]]])
        for index, v in enumerate(h["records"]):
            what = f"{h['name']}, record {index}"
            salt, bare = record.parse_opening(base64.b64decode(v["opening"]))
            kind, message = record.parse_record(schema, bare)
            same(what + " kind", kind, v["kind"])
            args = index, record.commitment(salt, bare), kind, message
            if "void" in v:
                refuses(what, v["void"], f.apply, *args)
                continue
            got = accepts(what, f.apply, *args)
            if got:
                same(what, (got[0], got[1] and got[1].state), (v.get("evidence", False), v.get("state")))
        ends = [{"id": ex.id.hex(), "state": ex.state, "attempt": ex.attempt, "ranking": ex.ranking, "agreeing": ex.agreeing,
                 "chain_head": ex.chain.hex(), "chain_length": ex.linked} for _, ex in sorted(f.executions.items())]
        same(h["name"] + " executions", ends, h["executions"])


def check_test_keys(keys):
    for key in keys:
        seed = base.sha256(b"tallystick test key " + key["seed_name"].encode())
        same(key["seed_name"] + " seed", seed.hex(), key["seed_hex"])
        parsed = accepts(key["vkey"][:40], note.Key, key["vkey"])
        if parsed and parsed.type != note.MLDSA:
            same(key["vkey"], parsed.public, ed25519.public_key(seed))
        elif parsed:
            counts["ML-DSA-44 keys and signatures taken as they are"] += 1


@checker("checkpoint/vectors.json")
def checkpoints(name, vectors):
    check_test_keys(vectors["keys"])
    seeds = {k["vkey"]: raw(k["seed_hex"]) for k in vectors["keys"]}
    for v in vectors["refused_vkeys"]:
        refuses(v["name"], "key", note.Key, v["vkey"])

    def open_note(v):
        opened = note.Note(v["note"].encode())
        checkpoint = note.Checkpoint(opened.text)
        base.need(checkpoint.origin == v["origin"], "origin")
        base.need(opened.signed_by_log([note.Key(v["vkey"])]), "log signature")

    def verify_proof(v):
        note.verify_tlog_proof(v["proof"].encode(), raw(v["leaf_hash_hex"]), note.Policy(v["policy"].encode()))

    cases = (("bodies", lambda v: note.Checkpoint(v["body"])), ("signed", open_note), ("proofs", verify_proof))
    for group, function in cases:
        for v in vectors[group]:
            if "error" in v:
                refuses(v["name"], v["error"], function, v)
            else:
                accepts(v["name"], function, v)
    entries = [base.leaf_hash(b"entry %d" % n) for n in range(5)]
    same("root of size 5", note.Checkpoint(vectors["bodies"][0]["body"]).root, base.tree_root(entries))
    for v in vectors["cosignatures"]:
        key, checkpoint = note.Key(v["vkey"]), note.Checkpoint(v["body"])
        signed = note.Note((v["body"] + "\n" + v["line"].rstrip("\n") + "\n").encode())
        found = signed.by(key)
        same("cosignature line", len(found), 1)
        same("cosignature time", accepts(key.name, note.cosignature_time, key, checkpoint, found[0]), v["timestamp"])
        message = note.cosigned_message(key, checkpoint, v["timestamp"])
        same("cosigned message", message.hex(), v["signed_message_hex"])
        if key.type == note.COSIGNER:
            same("cosignature", ed25519.sign(seeds[v["vkey"]], message), found[0][8:])
        else:
            counts["ML-DSA-44 keys and signatures taken as they are"] += 1


@checker("policy/vectors.json")
def policies(name, vectors):
    for v in vectors["parse"]:
        data = base64.b64decode(v["policy_base64"]) if "policy_base64" in v else v.get("policy", "").encode()
        try:
            note.Policy(data)
        except note.PolicyError as error:
            counts["refused"] += 1
            same(v["name"], (error.line, "refused"), (v.get("error_line", 0), "refused" if "reason" in v else str(error)))
        else:
            counts["accepted"] += 1
            same(v["name"], "accepted", "refused: " + v["reason"] if "reason" in v else "accepted")
    for v in vectors["verify"]:
        function = note.Policy(v["policy"].encode()).verify
        args = v["note"].encode(), v.get("now"), v.get("max_age_seconds")
        if "error" in v:
            refuses(v["name"], v["error"], function, *args)
            continue
        got = accepts(v["name"], function, *args)
        if got:
            same(v["name"], list(got[1]), v["witnesses"])


def bundle_schema():
    return {**record.parse_proto((PROTO / "record.proto").read_text()), **record.parse_proto((PROTO / "bundle.proto").read_text())}


def same_report(what, got, want):
    """Holds what was computed against a report of the verifier, but for its words."""
    want = dict(want, failure=want["failure"]["code"]) if "failure" in want else want
    counts["reports"] += 1
    for member in sorted((set(got) | set(want)) - {"execution", "steps", "proven", "not_proven"}):
        same(f"{what} {member}", got.get(member), want.get(member))
    for member in sorted(set(got["execution"]) | set(want["execution"])):
        same(f"{what} execution {member}", got["execution"].get(member), want["execution"].get(member))


def refuses_changed(what, code, schema, body, verify, **changed):
    """A bundle with other members and the digest repaired must be refused."""
    other = record.encode(schema, "ProofBundle", dict(body, **changed))
    head = b"tallystick-bundle/1.0 sha256:" + base.sha256(other).hex().encode() + b"\n"
    refuses(what, code, lambda: verify(bundle.Bundle(schema, head + other)))


@checker("bundle/report.json")
def golden_bundle(name, report):
    schema = bundle_schema()
    data = (HERE / "bundle" / "golden.tallyproof").read_bytes()
    trust = [(HERE / "bundle" / n).read_bytes() for n in ("genesis.json", "audit.policy", "membership.policy")]
    got = accepts("bundle", lambda: bundle.Bundle(schema, data).verify(*trust))
    if got:
        same_report("report", got, report)
    refuses("another genesis", "genesis", lambda: bundle.Bundle(schema, data).verify(trust[0] + b" ", *trust[1:]))
    body = bundle.Bundle(schema, data).body
    same("body encoded", record.encode(schema, "ProofBundle", body), data[data.index(b"\n") + 1:])

    def without(what, **changed):
        refuses_changed(what, None, schema, body, lambda b: b.verify(*trust), **changed)

    agreed = {node["index"] for node in report["execution"]["nodes"]}
    for n, r in enumerate(body["records"]):
        kind, _ = record.parse_record(schema, r["opening"][32:])
        if kind in ("contract", "request", "reschedule", "provenance") or r["index"] in agreed:
            without(f"without record {n}", records=body["records"][:n] + body["records"][n + 1:])
        without(f"record {n} at another index", records=body["records"][:n] + [dict(r, index=r["index"] + 1)] + body["records"][n + 1:])
    without("of another execution", execution_id=bytes(32))
    without("of another cluster", cluster="other")
    without("without the last change", membership_changes=body["membership_changes"][:-1])
    without("without consistency proof", consistency_proof=[])
    without("checkpoints exchanged", audit_checkpoint=body["request_checkpoint"], request_checkpoint=body["audit_checkpoint"])
    without("without cosignatures", audit_checkpoint=b"\n".join(body["audit_checkpoint"].split(b"\n")[:5]) + b"\n")
    head = data.index(b"\n") + 1
    for at in range(head, len(data), 4001):
        flipped = data[:at] + bytes([data[at] ^ 1]) + data[at + 1:]
        refuses(f"flipped byte {at}", "damaged", bundle.Bundle, schema, flipped)


@checker("bundle/refused.json")
def refused_bundles(name, vectors):
    schema = bundle_schema()
    genesis, *policies = [(HERE / "bundle" / n).read_bytes() for n in ("genesis.json", "audit.policy", "membership.policy")]

    def verify(v):
        trust = v["genesis"].encode() if "genesis" in v else genesis
        bundle.Bundle(schema, (HERE / "bundle" / "refused" / v["file"]).read_bytes()).verify(trust, *policies, v.get("execution"))

    for v in vectors:
        refuses(v["name"], v["code"], verify, v, rule=v.get("rule"))
    same("files", sorted(v["file"] for v in vectors), sorted(p.name for p in (HERE / "bundle" / "refused").iterdir()))


@checker("bundle/verified.json")
def verified_bundles(name, vectors):
    schema, folder = bundle_schema(), HERE / "bundle" / "verified"
    for v in vectors:
        data, changes = (folder / v["file"]).read_bytes(), [c.encode() for c in v.get("changes", [])]
        trust = [v[n].encode() for n in ("genesis", "audit_policy", "membership_policy")]
        got = accepts(v["name"], lambda: bundle.Bundle(schema, data).verify(*trust, changes=changes))
        if not got:
            continue
        same(v["name"] + " code", got.get("failure"), v.get("code"))
        same_report(v["name"], got, load(f"bundle/verified/{v['report']}"))
        body = bundle.Bundle(schema, data).body

        def without(what, code, given=changes, **changed):
            refuses_changed(f"{v['name']} {what}", code, schema, body, lambda b: b.verify(*trust, changes=given), **changed)

        records, ancestors = body["records"], body.get("ancestors", [])
        without("without its end", "rules", records=records[:-1])
        if got["execution"]["state"] == "diverged":
            for n in range(len(records) - 1):  # each attestation counts, void ones too
                without(f"without record {n}", None, records=records[:n] + records[n + 1:])
        if body.get("external_membership"):
            without("without changes", "external_membership", given=[])
            without("with a change too few", "external_membership", given=changes[:-1])
            without("with another change", "membership", given=changes[:-1] + changes[:1])
            accepts(v["name"] + " with a change more", bundle.Bundle(schema, data).verify, *trust, None, changes + [b"later"])
        for n, a in enumerate(ancestors):
            without(f"without ancestor {n}", "ancestor", ancestors=ancestors[:n] + ancestors[n + 1:])
            ended = dict(a, records=a["records"][:-1])
            without(f"without the end of ancestor {n}", "rules", ancestors=ancestors[:n] + [ended] + ancestors[n + 1:])
        if ancestors:
            main = {n: body[n] for n in ("execution_id", "request_checkpoint", "consistency_proof", "records")}
            parts = sorted([*ancestors, main], key=lambda p: p["records"][-1]["index"])
            without("with itself as ancestor", "ancestor", ancestors=parts)
            first = ancestors[0]
            rest = {n: first.get(n) for n in main}
            parts = sorted([*ancestors[1:], main], key=lambda p: p["records"][-1]["index"])
            without("exchanged with its parent", "ancestor", **rest, ancestors=parts)
            without("in another order", "format", ancestors=ancestors[::-1])
    named = [v[n] for v in vectors for n in ("file", "report")]
    same("files", sorted(named), sorted(p.name for p in folder.iterdir()))


@checker("membership-proof/proofs.json")
def membership_proofs(name, vectors):
    def verify(v):
        changes = [c.encode() for c in v["changes"]] if "changes" in v else None
        return member.Proof(v["file"].encode()).verify(v.get("policy", vectors["policy"]).encode(),
                                                       v.get("genesis", vectors["genesis"]).encode(), v["principal"], v["epoch"], changes)

    for v in vectors["proven"]:
        got = accepts(v["name"], verify, v)
        if got:
            same(v["name"], (got[0] is not None, (got[0] or b"").decode(), got[1]), (v["member"], v.get("as", ""), v["last_epoch"]))
    for v in vectors["refused"]:
        refuses(v["name"], v["code"], verify, v)


@checker("successor/entry.txt")
def successor(name, entry):
    def parse(data):
        """docs/formats/successor.md: origin, keys, receipt keys, note."""
        base.need(len(data) <= 65535, "too large")
        head, blank, signed = data.partition(b"\n\n")
        lines = head.decode().split("\n")
        base.need(blank and len(lines) >= 3 and lines[0] == "tallystick log successor v1" and lines[1].startswith("origin "), "malformed")
        origin, keys, receipts = lines[1][len("origin "):], [], []
        for line in lines[2:]:
            word, _, vkey = line.partition(" ")
            base.need(word == "receipt-key" or word == "key" and not receipts, "malformed")
            (receipts if word == "receipt-key" else keys).append(note.Key(vkey))
        base.need(1 <= len(keys) <= 8 and len(receipts) <= 8, "malformed")
        base.need(all(k.name == origin for k in keys) and all(k.name == origin + "/receipt" for k in receipts), "malformed")
        base.need(len({k.text for k in keys + receipts}) == len(keys + receipts), "malformed")
        opened = note.Note(signed)
        base.need(note.Checkpoint(opened.text).origin != origin, "malformed")
        return keys, receipts, opened

    keys, receipts, opened = accepts("entry", parse, entry)
    for what, key, seed in (("key", keys[0], 2), ("receipt key", receipts[0], 3)):
        same(what, key.public.hex(), ed25519.public_key(bytes([seed]) * 32).hex())
    same("signature", opened.signatures[0][2].hex(), ed25519.sign(bytes([1]) * 32, opened.text.encode()).hex())
    for what, bad in (("line repeated", entry.replace(b"origin", b"origin new.example/log\norigin", 1)), ("header", entry[1:]),
                      ("no signature", entry[:entry.index(b"\xe2")]), ("other key", entry.replace(b"key new", b"key old", 1))):
        refuses(what, None, parse, bad)


BESIDE = {"bundle/golden.tallyproof", "bundle/genesis.json", "bundle/audit.policy", "bundle/membership.policy",
          "record/refused.proto"}  # read together with a file of vectors


def main():
    files = sorted(str(p.relative_to(HERE).as_posix()) for p in HERE.rglob("*") if p.is_file())
    files = [f for f in files if "/" in f and f.split("/")[0] not in ELSEWHERE]
    for lost in sorted((set(checks) | BESIDE) - set(files)):
        faults.append(f"{lost}: is missing")
    for name in files:
        if name in BESIDE or name.startswith(("bundle/refused/", "bundle/verified/")):
            continue
        if name not in checks:
            faults.append(f"{name}: this program does not know it; teach it the file")
            continue
        before = len(faults)
        counts.clear()
        try:
            checks[name](name, load(name))
        except Exception:
            faults.append(traceback.format_exc())
        faults[before:] = [f"{name}: {fault}" for fault in faults[before:]]
        told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items()))
        print(f"{'ok  ' if len(faults) == before else 'FAIL'} {name}: {told}")
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
