package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/tallystick/tallystick/cmd/internal/wiring"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
	"github.com/tallystick/tallystick/verifier/lawful"
)

// evidenceFlags are the flags of verifier evidence.
type evidenceFlags struct {
	vkey, policy, genesis string
	receiptVkeys          []string
	json                  bool
}

// The kinds of evidence, as evidence --json names them.
const (
	kindFork     = "fork"
	kindUnlawful = "unlawful_change"
)

// evidenceReport is what evidence --json prints.
type evidenceReport struct {
	Kind    string `json:"kind"`    // fork or unlawful_change
	Finding string `json:"finding"` // proven or unproven
	Origin  string `json:"origin"`
	// Pinned tells whether the caller named whom to believe; otherwise the file did.
	Pinned      bool               `json:"pinned"`
	Checkpoints []signedCheckpoint `json:"checkpoints"`
	// RootAtSmallerSize is the root hash that the larger tree provably has at the
	// smaller size, in base64; for a proven fork.
	RootAtSmallerSize string          `json:"root_at_smaller_size,omitempty"`
	Unlawful          *unlawfulChange `json:"unlawful_change,omitempty"`
	Proven            []string        `json:"proven"`
	NotProven         []string        `json:"not_proven"`
}

// signedCheckpoint is a checkpoint and who signed it.
type signedCheckpoint struct {
	Role         string                 `json:"role"` // known, submitted or checkpoint
	Size         int64                  `json:"size"`
	RootHash     string                 `json:"root_hash"` // base64
	LogKeys      []string               `json:"log_keys"`  // verifier keys whose signature verifies
	Cosignatures []verifier.Cosignature `json:"cosignatures,omitempty"`
	Quorum       bool                   `json:"quorum"` // whether they satisfy the policy, if one was given
	Others       []string               `json:"unverified_signatures,omitempty"`
}

// unlawfulChange is a change that the rules of membership refuse.
type unlawfulChange struct {
	Cluster string `json:"cluster"`
	Index   int64  `json:"index"`
	Epoch   uint64 `json:"epoch"`
	Code    string `json:"code"` // of membership's refusals
	Detail  string `json:"detail"`
	Entry   string `json:"entry"` // SHA-256, hexadecimal
}

func evidenceCommand() *cobra.Command {
	var f evidenceFlags
	cmd := &cobra.Command{
		Use:   "evidence FILE",
		Short: "Check evidence against a log, offline",
		Long: `Check what an evidence file proves. A witness, a node, "verifier log" and
"verifier compare" write one when a log shows two histories; a cosigner of lawful
membership when a membership log holds a change that no rule allows. No network
connection is made, and nothing is believed but signatures and hashes.

Evidence of two histories is judged by the log's key in --policy or --vkey,
evidence of an unlawful change by the cluster's --genesis. Without them the file
says itself whose key or which genesis it is about: then it proves what the holder
of that key has signed, and whether it is the log's is for you to know.

A receipt's head binds the log as a checkpoint does. When one of the two is a
receipt head, name the log's receipt key with --receipt-vkey too; genesis and later
changes of the membership have it. A file never names it itself.

` + exitTable(),
		Example: "  verifier evidence fork.json --policy audit.policy\n" +
			"  verifier evidence unlawful.json --genesis genesis.json",
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runEvidence(cmd, f, args[0]) },
	}
	cmd.Flags().StringVar(&f.vkey, "vkey", "", "verifier `KEY` of the log")
	cmd.Flags().StringArrayVar(&f.receiptVkeys, "receipt-vkey", nil, "verifier `KEY` of the log for receipt heads, named ORIGIN/receipt; may be repeated")
	cmd.Flags().StringVar(&f.policy, "policy", "", "trust policy `FILE` of the log; it also says who cosigned")
	cmd.Flags().StringVar(&f.genesis, "genesis", "", "genesis `FILE` of the cluster, for evidence of an unlawful change")
	cmd.Flags().BoolVar(&f.json, "json", false, "print the report as JSON")
	return cmd
}

func runEvidence(cmd *cobra.Command, f evidenceFlags, name string) error {
	if f.vkey != "" && f.policy != "" {
		return wiring.Usage(cmd, errors.New("--vkey and --policy say the same: name one"))
	}
	text, err := readFile("evidence", name, lawful.MaxEvidenceSize)
	if err != nil {
		return err
	}
	var head struct {
		Format string `json:"format"`
	}
	if err := json.Unmarshal(text, &head); err != nil {
		return fail(exitMalformed, "", "evidence %q: %w", name, err)
	}
	var report *evidenceReport
	switch head.Format {
	case lawful.Format:
		report, err = f.unlawful(cmd, text)
	case "":
		return fail(exitMalformed, "", "evidence %q: it has no \"format\", so it is no evidence file", name)
	default: // its parser names the format that it wants
		report, err = f.fork(cmd, text)
	}
	if report == nil {
		return err
	}
	if f.json {
		return firstError(err, printJSON(cmd.OutOrStdout(), report))
	}
	printEvidence(cmd.OutOrStdout(), report)
	return err
}

// fork judges evidence of two histories.
func (f *evidenceFlags) fork(cmd *cobra.Command, text []byte) (*evidenceReport, error) {
	if f.genesis != "" {
		return nil, wiring.Usage(cmd, errors.New("--genesis is for evidence of an unlawful change; this is about two checkpoints: name the log's key with --policy or --vkey"))
	}
	e, err := checkpoint.ParseEvidence(text)
	if err != nil {
		return nil, fail(exitMalformed, "", "evidence: %w", err)
	}
	policy, err := f.readPolicy(cmd, e.Vkeys)
	if err != nil {
		return nil, err
	}
	origin, err := evidenceOrigin(e.Known)
	if err != nil {
		return nil, err
	}
	keys := policy.LogKeys(origin)
	if len(keys) == 0 {
		return nil, fail(exitOther, "name the key of the log that the evidence is about", "the evidence is about %q, which the policy or key does not name", origin)
	}
	receipts, err := f.receiptKeys(cmd, origin)
	if err != nil {
		return nil, err
	}
	v, err := e.Examine(append(slices.Clone(keys), verifiers(receipts)...))
	if errors.Is(err, checkpoint.ErrLogSignature) && len(receipts) == 0 && (isReceiptHead(e.Known, origin) || isReceiptHead(e.Submitted, origin)) {
		return nil, fail(exitPolicy, "name the log's receipt key with --receipt-vkey: its genesis has it, under receipt_keys", "evidence: one of the two is a receipt head: %w", err)
	}
	if err != nil {
		return nil, classifyEvidence(err)
	}
	r := &evidenceReport{Kind: kindFork, Finding: "proven", Origin: origin, Pinned: f.policy != "" || f.vkey != "",
		Checkpoints: []signedCheckpoint{describeNote("known", e.Known, v.Known, policy, receipts...),
			describeNote("submitted", e.Submitted, v.Submitted, policy, receipts...)}}
	r.judgeFork(v)
	if v.Finding != checkpoint.Fork {
		return r, fail(exitUnproven, "ask the log: verifier compare URL --note FILE takes the proof from its tiles",
			"nothing is proven: the log signed both checkpoints, but the proof in the file does not say that they contradict each other")
	}
	return r, nil
}

// receiptSuffix ends the name of the keys that sign receipt heads.
const receiptSuffix = "/receipt"

// receiptKeys are the keys for receipt heads that the caller named.
func (f *evidenceFlags) receiptKeys(cmd *cobra.Command, origin string) (list []checkpoint.LogKey, err error) {
	for _, vkey := range f.receiptVkeys {
		key, err := checkpoint.ParseVkey(vkey)
		if err == nil && key.Name() != origin+receiptSuffix {
			err = fmt.Errorf("the evidence is about %q, whose receipt keys are named %q", origin, origin+receiptSuffix)
		}
		if err != nil {
			return nil, wiring.Usage(cmd, fmt.Errorf("--receipt-vkey %q: %w", vkey, err))
		}
		list = append(list, checkpoint.LogKey{Vkey: vkey, Origin: origin, Key: key})
	}
	return list, nil
}

func verifiers(keys []checkpoint.LogKey) (list []note.Verifier) {
	for _, k := range keys {
		list = append(list, k.Key)
	}
	return list
}

// isReceiptHead reports whether a note claims to be signed by a receipt key.
func isReceiptHead(signed []byte, origin string) bool {
	n, err := checkpoint.ParseNote(signed)
	return err == nil && slices.ContainsFunc(n.Signatures, func(s checkpoint.Signature) bool { return s.Name == origin+receiptSuffix })
}

// judgeFork puts into words what a verdict proves.
func (r *evidenceReport) judgeFork(v *checkpoint.Verdict) {
	r.addKeyDoubt("log's key")
	if v.Finding != checkpoint.Fork {
		r.Finding = "unproven"
		r.Proven = append(r.Proven, fmt.Sprintf("the log signed both checkpoints, of sizes %d and %d", v.Known.Size, v.Submitted.Size))
		r.NotProven = append(r.NotProven, "that they contradict each other: whoever wrote the file may have been given a bad consistency proof by somebody else")
		return
	}
	smaller, larger := v.Known, v.Submitted
	if smaller.Size > larger.Size {
		smaller, larger = larger, smaller
	}
	r.RootAtSmallerSize = v.RootAt.String()
	r.Proven = append(r.Proven, fmt.Sprintf("the log %q signed two trees of which neither extends the other: it has changed its past or shows different histories to different people", r.Origin))
	if smaller.Size == larger.Size {
		r.Proven = append(r.Proven, fmt.Sprintf("it signed two root hashes for the tree size %d; a log that only grows has one for each", smaller.Size))
	} else {
		r.Proven = append(r.Proven, fmt.Sprintf("it signed root hash %v for the tree size %d, and a tree of size %d that had root hash %v at that size", smaller.Root, smaller.Size, larger.Size, v.RootAt))
	}
	r.NotProven = append(r.NotProven,
		"which of the two histories is the right one, if any",
		"who did it: whoever holds the log's key can have signed")
}

// unlawful judges evidence of an unlawful change.
func (f *evidenceFlags) unlawful(cmd *cobra.Command, text []byte) (*evidenceReport, error) {
	if f.vkey != "" {
		return nil, wiring.Usage(cmd, errors.New("--vkey is for evidence of two histories; here the genesis names the keys: --genesis"))
	}
	e, err := lawful.Parse(text)
	if err != nil {
		return nil, fail(exitMalformed, "", "%w", err)
	}
	genesis := e.Genesis
	if f.genesis != "" {
		if genesis, err = readFile("genesis", f.genesis, maxGenesis); err != nil {
			return nil, err
		}
		if !bytes.Equal(genesis, e.Genesis) {
			return nil, fail(exitOther, "check that the genesis is of this cluster", "the evidence is of a cluster with another genesis")
		}
	}
	v, err := e.Judge(genesis)
	if err != nil {
		return nil, classifyEvidence(err)
	}
	policy, err := f.readPolicy(cmd, v.Signers)
	if err != nil {
		return nil, err
	}
	r := &evidenceReport{Kind: kindUnlawful, Finding: "proven", Origin: v.Origin, Pinned: f.genesis != "",
		Checkpoints: []signedCheckpoint{describeNote("checkpoint", e.Checkpoint, v.Checkpoint, policy)},
		Unlawful: &unlawfulChange{Cluster: v.Cluster, Index: v.Index, Epoch: v.Epoch, Code: string(v.Code), Detail: v.Detail,
			Entry: fmt.Sprintf("%x", v.Entry)}}
	r.Checkpoints[0].LogKeys = v.Signers
	r.addKeyDoubt("genesis")
	r.Proven = append(r.Proven,
		fmt.Sprintf("the log %q of cluster %q signed a tree of size %d whose entry %d is not a lawful change (%s): %s", v.Origin, v.Cluster, v.Checkpoint.Size, v.Index, string(v.Code), v.Detail),
		fmt.Sprintf("all %d entries before it are lawful, and they name the key that signed", v.Index))
	r.NotProven = append(r.NotProven, "who did it: whoever holds the log's key can have signed")
	return r, nil
}

// addKeyDoubt says what rests on the file's own word.
func (r *evidenceReport) addKeyDoubt(what string) {
	if !r.Pinned {
		r.NotProven = append(r.NotProven, fmt.Sprintf("that the %s is the one that the file names: compare it with what you have, or name it on the command line", what))
	}
}

// readPolicy reads the policy, or makes one of the key in the flag or of those
// in the file.
func (f *evidenceFlags) readPolicy(cmd *cobra.Command, inFile []string) (*checkpoint.Policy, error) {
	if f.policy != "" {
		return readPolicy("policy", f.policy)
	}
	vkeys := inFile
	if f.vkey != "" {
		vkeys = []string{f.vkey}
	}
	if len(vkeys) == 0 {
		return nil, wiring.Usage(cmd, errors.New("the file names no key of the log: name it with --policy or --vkey"))
	}
	vkeys = slices.Compact(slices.Sorted(slices.Values(vkeys)))
	p, err := checkpoint.ParsePolicy([]byte("log " + strings.Join(vkeys, "\nlog ") + "\nquorum none\n"))
	if err != nil && f.vkey != "" {
		return nil, wiring.Usage(cmd, fmt.Errorf("--vkey %q: %w", f.vkey, err))
	}
	return p, err
}

// evidenceOrigin is the origin that a note claims.
func evidenceOrigin(signed []byte) (string, error) {
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return "", fail(exitMalformed, "", "known checkpoint: %w", err)
	}
	c, err := checkpoint.ParseAny(n.Text)
	if err != nil {
		return "", fail(exitMalformed, "", "known checkpoint: %w", err)
	}
	return c.Origin, nil
}

// classifyEvidence gives the errors of judging evidence their exit codes.
func classifyEvidence(err error) error {
	const other = "without a valid signature by the log's key it is evidence of nothing"
	switch {
	case errors.Is(err, checkpoint.ErrLogSignature), errors.Is(err, lawful.ErrNotSigned):
		return fail(exitPolicy, other, "evidence: %w", err)
	case errors.Is(err, lawful.ErrNotInLog):
		return fail(exitProof, "", "evidence: %w", err)
	case errors.Is(err, checkpoint.ErrProof), errors.Is(err, checkpoint.ErrOrigin), errors.Is(err, lawful.ErrLawful), errors.Is(err, lawful.ErrVersion):
		return fail(exitUnproven, "the log is not shown to have done anything wrong", "evidence: %w", err)
	}
	return fail(exitMalformed, "", "evidence: %w", err)
}

// describeNote says who signed a checkpoint that was verified already. Receipts
// are keys of the log beside those of the policy.
func describeNote(role string, signed []byte, c checkpoint.Checkpoint, policy *checkpoint.Policy, receipts ...checkpoint.LogKey) signedCheckpoint {
	out := signedCheckpoint{Role: role, Size: c.Size, RootHash: c.Root.String()}
	n, err := checkpoint.ParseNote(signed)
	if err != nil {
		return out
	}
	logs := slices.Concat(policy.Logs(), receipts)
	for _, sig := range n.Signatures {
		switch log, w := findLog(logs, sig), findWitness(policy.Witnesses(), sig); {
		case log != nil && log.Key.Verify(n.Text, sig.Bytes):
			out.LogKeys = append(out.LogKeys, log.Vkey)
		case w != nil && w.Key.Verify(n.Text, sig.Bytes):
			// A cosignature that verifies begins with its timestamp.
			t := int64(binary.BigEndian.Uint64(sig.Bytes))
			out.Cosignatures = append(out.Cosignatures, verifier.Cosignature{Witness: w.Name, Timestamp: t})
		default:
			out.Others = append(out.Others, sig.Name)
		}
	}
	_, err = policy.Verify(signed)
	out.Quorum = err == nil && !policy.QuorumNone()
	return out
}

func findLog(logs []checkpoint.LogKey, sig checkpoint.Signature) *checkpoint.LogKey {
	i := slices.IndexFunc(logs, func(l checkpoint.LogKey) bool { return signedBy(l.Key, sig) })
	if i < 0 {
		return nil
	}
	return &logs[i]
}

func findWitness(witnesses []checkpoint.Witness, sig checkpoint.Signature) *checkpoint.Witness {
	i := slices.IndexFunc(witnesses, func(w checkpoint.Witness) bool { return signedBy(w.Key, sig) })
	if i < 0 {
		return nil
	}
	return &witnesses[i]
}

// signedBy reports whether a signature names a key; it may not verify.
func signedBy(key note.Verifier, sig checkpoint.Signature) bool {
	return key.Name() == sig.Name && key.KeyHash() == sig.KeyID
}

func printEvidence(w io.Writer, r *evidenceReport) {
	switch {
	case r.Finding != "proven":
		fmt.Fprintf(w, "NOT PROVEN\n\n")
	case r.Kind == kindFork:
		fmt.Fprintf(w, "PROVEN: the log shows two histories\n\n")
	default:
		fmt.Fprintf(w, "PROVEN: the membership log holds an unlawful change\n\n")
	}
	row := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-16s %s\n", name, fmt.Sprintf(format, args...))
	}
	row("log", "%s", r.Origin)
	for _, c := range r.Checkpoints {
		row(c.Role, "size %d, root hash %s", c.Size, c.RootHash)
		for _, key := range c.LogKeys {
			row("", "  signed by %s", key)
		}
		for _, s := range c.Cosignatures {
			row("", "  cosigned by %s at %s", s.Witness, time.Unix(s.Timestamp, 0).UTC().Format(time.RFC3339))
		}
		if c.Quorum {
			row("", "  the cosignatures satisfy the policy: whoever has this policy accepted it")
		}
		if len(c.Others) > 0 {
			row("", "  and lines by %q, whose keys nobody named", c.Others)
		}
	}
	if r.RootAtSmallerSize != "" && r.Checkpoints[0].Size != r.Checkpoints[1].Size {
		row("the larger had", "root hash %s at the smaller size", r.RootAtSmallerSize)
	}
	if u := r.Unlawful; u != nil {
		row("cluster", "%s", u.Cluster)
		row("entry", "%d, which would make epoch %d, SHA-256 %s", u.Index, u.Epoch, u.Entry)
		row("refused as", "%s: %s", u.Code, u.Detail)
	}
	printList(w, "Proven", r.Proven)
	if len(r.NotProven) > 0 {
		printList(w, "Not proven by the file", r.NotProven)
	}
}
