package wholelog

import "errors"

// What can be wrong with what a log was read from, beside
// [provenance.ErrOpening]: the opening of an entry does not open it.
var (
	// ErrMembershipBehind says that the audit log has epochs which the membership
	// log that was read does not have. The records of such an epoch cannot be judged.
	ErrMembershipBehind = errors.New("the membership log is behind the audit log")
	// ErrOtherLog says that a file of openings is of another log.
	ErrOtherLog = errors.New("the openings are of another log")
	// ErrOtherTree says that a file of openings is of a log that had another tree.
	ErrOtherTree = errors.New("the openings are of another tree")
	// ErrGenesis says that a membership log is another cluster's.
	ErrGenesis = errors.New("the membership log does not begin with the pinned genesis")
	// ErrChange says that a membership log has an entry that is no lawful change.
	ErrChange = errors.New("the membership log has an unlawful change")
	// ErrNoMembership says that a membership log has no entry.
	ErrNoMembership = errors.New("the membership log is empty")
	// ErrSize says that a log was read which never had that size.
	ErrSize = errors.New("the log that was read has no tree of that size")
)
