// Package rewrite turns a WebAssembly module into one whose execution is
// metered and repeatable bit for bit, on any engine that follows the
// specification. The rules, from which an independent implementation gets the
// same bytes and the same gas, are in docs/formats/rewriting.md; [Version] and
// [CostTable] name them, and a contract names both.
//
// # What the rewritten module does
//
//   - Gas: every straight line of code subtracts its cost from what is left
//     before it runs; bulk operations subtract by their length too. What is
//     left is in a local, and always in a global too, the counter. Where it is
//     found negative, at the entry of a function, the head of a loop, or a bulk
//     operation, the module calls an imported function, which adds gas or does
//     not return.
//   - Frames: a function that calls takes frames from a second global and puts
//     them back on every way out; when there are none left it traps. A large
//     function takes several, so that the frames bound the native stack.
//   - Not-a-numbers: wherever an operation's NaN has bits that the
//     specification leaves open, and they could be seen, they are made the
//     canonical ones.
//   - Memory and tables have maxima; growing fails at the same size everywhere.
//   - Integer remainders are computed in functions of their own: see
//     docs/design/043-rewriter.md.
//   - The start function is exported, not run. Custom sections and code that
//     cannot be reached are gone, and data segments that lie close together are
//     joined.
//
// # How the counters read
//
// The host sets both globals after instantiation and before it calls anything;
// the module's own code cannot name them. With total = gas global + gas the
// host still holds back, when a run has ended in any way:
//
//   - total is negative: the budget is exhausted. Gas used is the budget.
//   - otherwise, the frames global is negative: the stack is exhausted. No other
//     way out leaves it so: taking frames is the only instruction that makes it
//     negative, and the trap follows at once.
//   - otherwise the run ended for another reason, and used budget - total.
//
// When a run returned normally, the frames global has its initial value; when
// it trapped, it has that minus the frames of the functions that were open.
// None of this depends on how the host slices the gas, as long as it refills
// while it has some and unwinds the run when it has not.
//
// # Trust
//
// Modules are untrusted: input and output are bounded, and a module that
// cannot be rewritten, or is not valid, is refused with a [*Refusal]. The
// package is pure and its functions are safe for concurrent use.
package rewrite
