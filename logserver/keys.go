package logserver

import "encoding/binary"

// The key space of the store. The first byte names the kind; integers are
// big-endian, so that keys sort by index.
//
// Tiles and bundles are stored as runs: a run holds consecutive items of one
// tile or bundle and its key names the first. A full tile or bundle is normally
// a single run, and so are the items that one commit group added to an
// unfinished one. Concatenating the runs of a tile or bundle in key order gives
// its bytes, whatever the runs are.
const (
	kindMeta     = 'm' // name → see the meta keys
	kindTile     = 't' // level, hash index → run of hashes
	kindEntry    = 'e' // entry index → run of framed entries, as in a bundle
	kindOpening  = 'o' // entry index → opening
	kindDedup    = 'd' // deduplication key → entry index
	kindRegister = 'r' // register key → value
	kindNote     = 'p' // tree size → first published note of that size that satisfied the policy
)

// Meta keys. The store is initialised when metaFormat is there: it is written
// in the same commit as the rest.
var (
	metaFormat    = []byte("mformat")    // storeFormat
	metaIdentity  = []byte("midentity")  // origin and verifier keys: see identity
	metaHead      = []byte("mhead")      // size ‖ root of the integrated tree
	metaSigned    = []byte("msigned")    // the newest note signed by the log key
	metaPublished = []byte("mpublished") // the newest published note, cosignatures included
	metaImport    = []byte("mimport")    // importMark, if the first entries are another log's
	metaPlace     = []byte("mplace")     // where the store belongs: see place.go
	metaRestored  = []byte("mrestored")  // where a restored store comes from, until it has caught up
	metaCatchUp   = []byte("mcatchup")   // of a catch-up that is not complete: the tree size at which it began, and its id
	metaSuccessor = []byte("msuccessor") // first entry of the log that goes on after this one
)

// storeFormat is the version of the key space and of every value in it. Open
// refuses any other: a later version states how to migrate.
const storeFormat = "tallystick log store 1"

func tileKey(level int, index int64) []byte {
	k := make([]byte, 0, 10)
	k = append(k, kindTile, byte(level))
	return binary.BigEndian.AppendUint64(k, uint64(index))
}

func indexKey(kind byte, index int64) []byte {
	k := make([]byte, 0, 9)
	k = append(k, kind)
	return binary.BigEndian.AppendUint64(k, uint64(index))
}

func registerKey(key string) []byte { return append([]byte{kindRegister}, key...) }

// keyIndex returns the integer that ends a tile or index key, -1 for a key that
// is neither.
func keyIndex(key []byte) int64 {
	if len(key) < 9 {
		return -1
	}
	return int64(binary.BigEndian.Uint64(key[len(key)-8:]))
}
