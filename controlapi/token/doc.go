// Package token makes and checks the bearer tokens of the control plane's API
// (docs/architecture.md, "API edge").
//
// A token is a JWT that a principal issues to itself: signed with Ed25519 by
// one of its keys with use "token", which the membership log knows, and bound
// to one cluster by its audience. No secret is shared with anybody, and
// revoking the key, a membership change, ends every token made with it.
//
//	header  {"alg":"EdDSA","kid":"<key id>","typ":"JWT"}
//	claims  {"aud":"<cluster>","exp":n,"iat":n,"iss":"<principal>","jti":"<16 to 64 characters>","sub":"<principal>"}
//
// These members and no others, each once, in any order. A token may be
// presented any number of times until it expires: it opens nothing that its
// principal could not open, and whatever changes the state of an execution,
// a contract or the membership carries a signed envelope of its own. What a
// stolen token gives away for at most [MaxLifetime] is reading, and storing
// blobs in the principal's namespace.
//
// The package links the JWT library and the standard library only, so that
// every client can use it. All of it is safe for concurrent use.
package token
