package member

import (
	"errors"
	"fmt"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/tallystick/tallystick/internal/dsse"
	"github.com/tallystick/tallystick/membership"
	"github.com/tallystick/tallystick/verifier"
	"github.com/tallystick/tallystick/verifier/checkpoint"
)

// Trust is what a verifier believes without proof. All of it is required.
type Trust struct {
	// Policy says which checkpoints of the membership log are acceptable. It names
	// exactly one origin.
	Policy *checkpoint.Policy
	// Genesis is the first entry of the membership log, byte for byte.
	Genesis []byte
}

// A Question is what a proof has to answer.
type Question struct {
	Principal string
	Epoch     uint64
	// Changes are the entries of the membership log from the first on, if they are
	// at hand. They are suspect like the proof itself; with them it is checked too
	// that every one of them was lawful.
	Changes [][]byte
}

// verification is one run of the steps. What a step finds, the later ones use.
type verification struct {
	trust    Trust
	question Question
	report   *Report

	file    *membership.ProofFile
	genesis *membership.State
	tree    checkpoint.Checkpoint
	change  membership.Change
	// keyNamed says that the genesis names the log's origin, and a key by which
	// the checkpoint is signed.
	keyNamed bool
}

// step is one of them: what it is called and checks, and how.
type step struct {
	name, title string
	run         func() (found string, err *Error)
}

// Verify checks a membership proof. It returns a report in any case, and a nil
// error only if every step succeeded: then report.Member is the answer, which
// may be no. Otherwise the error is an [*Error].
func Verify(file []byte, trust Trust, question Question) (*Report, error) {
	v := &verification{trust: trust, question: question, report: &Report{}}
	steps := []step{
		{"file", "the file is a membership proof and answers the question", func() (string, *Error) { return v.readFile(file) }},
		{"checkpoint", "the checkpoint is signed by the log and cosigned as the policy asks", v.checkCheckpoint},
		{"genesis", "the log begins with the pinned genesis", v.checkGenesis},
		{"change", "the change that makes the epoch is in the log", v.checkChange},
		{"member", "the leaves show that the principal is, or is not, in the membership that the change makes", v.checkLeaves},
	}
	if question.Changes != nil {
		steps = append(steps, step{"history", "every change is lawful, and they are those of the checkpoint", v.replay})
	}
	for _, s := range steps {
		found, err := s.run()
		if err != nil {
			err.Step = s.name
			v.report.Steps = append(v.report.Steps, verifier.Step{Name: s.name, Title: s.title, Detail: err.Detail})
			v.report.Failure = &Failure{Code: err.Code, Step: err.Step, Detail: err.Detail, Hint: err.Hint()}
			return v.report, err
		}
		v.report.Steps = append(v.report.Steps, verifier.Step{Name: s.name, Title: s.title, OK: true, Detail: found})
	}
	v.conclude()
	return v.report, nil
}

// readFile is step 1. It also refuses a Trust that nothing could satisfy.
func (v *verification) readFile(file []byte) (string, *Error) {
	if v.trust.Policy == nil {
		return "", refuse(CodeTrust, "a policy for the membership log is needed")
	}
	if _, err := v.trust.Policy.Origin(); err != nil {
		return "", refuse(CodeTrust, "policy: %w", err)
	}
	var err error
	if v.genesis, _, err = membership.Genesis(v.trust.Genesis); err != nil {
		return "", refuse(CodeTrust, "pinned genesis: %w", err)
	}
	switch v.file, err = membership.ParseProofFile(file); {
	case errors.Is(err, membership.ErrProofVersion):
		return "", refuse(CodeVersion, "%w", err)
	case err != nil:
		return "", refuse(CodeFormat, "%w", err)
	case v.file.Principal != v.question.Principal || v.file.Epoch != v.question.Epoch:
		return "", refuse(CodeOther, "a proof about %s at epoch %d, asked for was %.80q at epoch %d",
			v.file.Principal, v.file.Epoch, v.question.Principal, v.question.Epoch)
	}
	r := v.report
	r.Cluster, r.Principal, r.Epoch, r.Member = v.genesis.Cluster(), v.file.Principal, v.file.Epoch, v.file.Member
	claim := "is a member"
	if !r.Member {
		claim = "is no member"
	}
	return fmt.Sprintf("%d bytes; claims that %s %s at epoch %d", len(file), r.Principal, claim, r.Epoch), nil
}

// checkCheckpoint is step 2.
func (v *verification) checkCheckpoint() (string, *Error) {
	verified, err := v.trust.Policy.Verify(v.file.Checkpoint)
	if err != nil {
		return "", refuse(CodeCheckpoint, "%w", err)
	}
	v.tree = verified.Checkpoint
	v.report.Checkpoint, v.report.LastEpoch = checkpointOf(verified), uint64(v.tree.Size)
	named := map[string]bool{}
	v.addKeys(named, v.genesis)
	v.keyNamed = v.signedBy(named) == nil
	found := fmt.Sprintf("%q at size %d", v.tree.Origin, v.tree.Size)
	if v.trust.Policy.QuorumNone() {
		found += "; the policy asks for no witness"
	}
	return found, nil
}

// addKeys notes the keys that a state names for the checkpoint's log.
func (v *verification) addKeys(named map[string]bool, s *membership.State) {
	if log := s.Logs().Membership; log.Origin == v.tree.Origin {
		for _, vkey := range log.Keys {
			named[vkey] = true
		}
	}
}

// signedBy checks that the checkpoint is signed by a key that is named and that
// the policy accepts.
func (v *verification) signedBy(named map[string]bool) error {
	var keys []note.Verifier
	for _, key := range v.trust.Policy.Logs() {
		if named[key.Vkey] {
			keys = append(keys, key.Key)
		}
	}
	_, err := checkpoint.Open(v.file.Checkpoint, v.tree.Origin, keys)
	return err
}

// checkGenesis is step 3.
func (v *verification) checkGenesis() (string, *Error) {
	if err := v.included(0, v.trust.Genesis, v.file.GenesisProof); err != nil {
		return "", refuse(CodeGenesis, "entry 0 is not the pinned genesis: %w", err)
	}
	return fmt.Sprintf("cluster %q", v.genesis.Cluster()), nil
}

// checkChange is step 4.
func (v *verification) checkChange() (string, *Error) {
	if v.file.Epoch > uint64(v.tree.Size) {
		return "", refuse(CodeChange, "epoch %d is beyond the checkpoint, which covers %d", v.file.Epoch, v.tree.Size)
	}
	index := int64(v.file.Epoch) - 1
	if err := v.included(index, v.file.Change, v.file.ChangeProof); err != nil {
		return "", refuse(CodeChange, "entry %d: %w", index, err)
	}
	envelope, err := dsse.Parse(v.file.Change)
	if err != nil {
		return "", refuse(CodeChange, "entry %d: %w", index, err)
	}
	if envelope.PayloadType != membership.PayloadType {
		return "", refuse(CodeChange, "entry %d is a %.80q", index, envelope.PayloadType)
	}
	if v.change, err = membership.ParseChange(envelope.Payload); err != nil {
		return "", refuse(CodeChange, "entry %d: %w", index, err)
	}
	if v.change.Epoch != v.file.Epoch || v.change.Cluster != v.genesis.Cluster() {
		return "", refuse(CodeChange, "entry %d makes epoch %d of cluster %q", index, v.change.Epoch, v.change.Cluster)
	}
	r := v.report
	r.MembershipHash, r.MembershipCount = v.change.MembershipHash.String(), v.change.MembershipCount
	r.ClusterIdentityHash = v.change.ClusterIdentityHash.String()
	return fmt.Sprintf("entry %d, %s: %d principals, membership hash %s", index, v.change.Effect.Kind(), r.MembershipCount, r.MembershipHash), nil
}

// included checks that an entry is in the tree of the checkpoint.
func (v *verification) included(index int64, entry []byte, proof [][]byte) error {
	hashes := make([]tlog.Hash, len(proof))
	for i, h := range proof {
		hashes[i] = tlog.Hash(h) // its length was checked when the file was read
	}
	return checkpoint.VerifyInclusion(v.tree.Tree(), index, tlog.RecordHash(entry), hashes)
}

// checkLeaves is step 5.
func (v *verification) checkLeaves() (string, *Error) {
	hash, count, id := v.change.MembershipHash, v.change.MembershipCount, v.file.Principal
	if !v.file.Member {
		if err := membership.CheckAbsent(hash, count, id, v.file.Leaves); err != nil {
			return "", refuse(CodeLeaf, "%w", err)
		}
		return fmt.Sprintf("%d neighbouring leaves of %d leave no place for %s", len(v.file.Leaves), count, id), nil
	}
	p, err := membership.CheckMember(hash, count, id, v.file.Leaves[0])
	if err != nil {
		return "", refuse(CodeLeaf, "%w", err)
	}
	v.report.As = &p
	return fmt.Sprintf("leaf %d of %d is %s %s with %d keys", v.file.Leaves[0].Index, count, p.Kind, p.ID, len(p.Keys)), nil
}

// replay is step 6, for whoever has the changes.
func (v *verification) replay() (string, *Error) {
	if int64(len(v.question.Changes)) < v.tree.Size {
		return "", refuse(CodeHistory, "%d changes given, the checkpoint covers %d", len(v.question.Changes), v.tree.Size)
	}
	history := membership.NewHistory()
	named := map[string]bool{}
	for i, change := range v.question.Changes[:v.tree.Size] {
		if _, err := history.Append(change); err != nil {
			return "", refuse(CodeHistory, "change %d: %w", i, err)
		}
		v.addKeys(named, history.Current())
	}
	// With this root the first change is the pinned genesis, and the epoch's is
	// the one in the file.
	root, err := history.Root(history.Size())
	if err != nil || root != v.tree.Root {
		return "", refuse(CodeHistory, "the changes have root hash %v, the checkpoint %v", root, v.tree.Root)
	}
	if err := v.signedBy(named); err != nil {
		return "", refuse(CodeLogKeys, "no key that policy and membership both name for %q has signed: %w", v.tree.Origin, err)
	}
	v.report.Lawful = true
	return fmt.Sprintf("epoch %d at the end, with %d principals", history.Size(), history.Current().Count()), nil
}
