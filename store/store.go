// Package store is the contract of the control plane's storage: atomic batches at positions, a feed of every batch in order,
// observations and leases. It holds no SQL and knows nothing of kinds or specs: objects are opaque bytes with a key and labels.
// Package storetest holds the acceptance suite that each implementation passes.
package store

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A Lineage identifies one history: a random store id plus an epoch that every restore, import or forced promotion raises.
type Lineage struct {
	ID    string
	Epoch uint64
}

// String renders a lineage for people: "3f2a…/1".
func (l Lineage) String() string { return fmt.Sprintf("%s/%d", l.ID, l.Epoch) }

// A Chain is the hash over all batches up to a revision; equal revisions with unequal chains are a fork.
type Chain [sha256.Size]byte

// String renders a chain in hex.
func (c Chain) String() string { return hex.EncodeToString(c[:]) }

// A Position is a point in the history of a store.
type Position struct {
	Lineage  Lineage
	Revision uint64
	Chain    Chain
}

// String renders a position for people and logs.
func (p Position) String() string {
	return fmt.Sprintf("%s@%d-%s", p.Lineage, p.Revision, hex.EncodeToString(p.Chain[:4]))
}

// A Class separates what users and zones declare from what a control plane computes from it.
type Class uint8

// The classes of stored objects.
const (
	Resource Class = iota // declared by users and zones
	Derived               // computed by one writer: virtual IPs, hostnames, generated conditions
)

// A Key addresses one object.
type Key struct {
	Class Class
	Type  string
	Mesh  string
	Name  string
}

// String renders a key for people.
func (k Key) String() string {
	s := k.Type + " "
	if k.Mesh != "" {
		s += k.Mesh + "/"
	}
	if k.Class == Derived {
		return "derived " + s + k.Name
	}
	return s + k.Name
}

// An Object is one stored object. Data is opaque to the store and returned verbatim.
type Object struct {
	Key
	UID      string // set by the first write when empty: random, lower-case hex
	Version  uint64 // writes of this object, from 1; set by the store
	Revision uint64 // revision that wrote this version; set by the store
	Labels   map[string]string
	Data     []byte
	Created  time.Time // set by the store, in UTC with microsecond precision
	Modified time.Time
	// Owner, when set, is an object whose deletion deletes this one in the same batch. It need not exist yet.
	Owner *Key
	// Secret marks data that is sealed; its history rows hold only the sealed form and are shredded on delete:
	// from then on history and Follow give those changes without Data. Once set it stays set.
	Secret bool
}

// What a write expects of the object it replaces.
const (
	ExpectAny    int64 = -1 // create or replace
	ExpectAbsent int64 = 0  // create; a positive number is the version to replace
)

// An Op is one change of a batch: a put when Delete is false.
type Op struct {
	Object Object // for a delete only the key is read
	Delete bool
	Expect int64
	// TakeUID makes a put that replaces an object take the UID given instead of keeping the one there was.
	// It is for copies whose original was made anew: what the copy owns stays.
	TakeUID bool
}

// A BatchID identifies a batch for ever, so that a writer with an unknown outcome can ask again.
type BatchID [16]byte

// A Batch is a set of changes that happen together at one revision. Each key appears at most once.
type Batch struct {
	ID     BatchID // must not be zero
	Ops    []Op
	Author string // who, for history
	Reason string // why, for history
	// Fence, when set, makes the batch conditional on a lease still held.
	Fence *Fence
}

// A Committed is one batch as it happened: its position and the resulting objects.
type Committed struct {
	Position Position
	ID       BatchID
	Author   string
	Reason   string
	At       time.Time
	Changes  []Change
}

// A Change is one object written or deleted. For a delete, Object holds the key, UID and the version deleted.
type Change struct {
	Object  Object
	Deleted bool
}

// A Fence proves a lease: a write made under it fails once someone else holds the lease.
type Fence struct {
	Name    string
	Holder  string
	Counter uint64
}

// An Observation is a fact with the last writer winning: no history, no revision, no compare-and-set.
type Observation struct {
	Key  string    // "zone/east/insights"
	Data []byte    // empty deletes
	At   time.Time // when it was observed; the time of the write when zero
}

// The outcomes that callers distinguish; each is wrapped with what was being done.
var (
	// ErrConflict is a failed expectation; errors.As finds the *ConflictError.
	ErrConflict = errors.New("changed by someone else")
	// ErrFenced is a write under a lease that another holds.
	ErrFenced = errors.New("lease lost")
	// ErrUnavailable is a store that cannot be reached or written now; nothing was committed.
	ErrUnavailable = errors.New("store is not available")
	// ErrUnknownOutcome is a commit whose outcome could not be learned in time; the same batch may be committed again safely.
	ErrUnknownOutcome = errors.New("outcome of the commit is unknown; repeat it with the same batch id")
	// ErrCompacted is a position older than the retained history; read a snapshot instead.
	ErrCompacted = errors.New("history is compacted")
	// ErrForked is a position that is not part of this history; discard memory and read a snapshot.
	ErrForked = errors.New("position belongs to another history")
	// ErrSchema is a store written by a newer version.
	ErrSchema = errors.New("store was written by a newer version of causeway")
	// ErrLocked is an embedded store that another process has open.
	ErrLocked = errors.New("store is in use by another process")
	// ErrInvalid is a batch that breaks the contract: no id, no ops, a key twice, data too large.
	ErrInvalid = errors.New("invalid batch")
	// ErrNotFound is an object that does not exist.
	ErrNotFound = errors.New("not found")
)

// A ConflictError names the object whose expectation failed.
type ConflictError struct {
	Key      Key
	Expected int64
	Actual   uint64 // 0 when absent
}

// Error says what was expected and found.
func (e *ConflictError) Error() string {
	switch {
	case e.Expected == ExpectAbsent:
		return fmt.Sprintf("%s: already exists", e.Key)
	case e.Actual == 0:
		return fmt.Sprintf("%s: does not exist, version %d was expected", e.Key, e.Expected)
	default:
		return fmt.Sprintf("%s: is at version %d, version %d was expected", e.Key, e.Actual, e.Expected)
	}
}

// Is makes a ConflictError match ErrConflict.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// A Store keeps objects. All methods are safe for concurrent use, also by several instances on one database.
//
// Commit is atomic. On success the batch has one revision of its own, consecutive with its neighbours, and is durable.
// A batch whose ID is already in the history is not applied again: Commit returns what it did then.
// After a lost connection during commit the store looks the ID up before it answers; when it can not, it returns ErrUnknownOutcome.
// A delete of an absent object with ExpectAny is no error and no change. A batch that changes nothing still gets a revision.
// Deleting an object deletes what it owns, in the same batch; those appear in Changes.
// A put that replaces an object keeps its UID (unless it says TakeUID), Created and Owner (unless it sets Owner). An object deleted and put again
// is a new one: its version starts at 1. A batch that puts an object and deletes its owner is invalid.
// When ctx ends while the batch still waits, nothing is committed; when it ends later, the answer is ErrUnknownOutcome.
//
// Follow calls fn for every batch after the position, in order, exactly once, until ctx ends or fn fails; it waits for new batches.
// It returns ErrCompacted or ErrForked when it cannot continue, and survives a lost connection by reading again.
// The zero Position is the beginning of any history. A new epoch ends every Follow with ErrForked.
// Notifications only wake it: rows are the truth.
//
// Snapshot reads all objects as of one position, in key order.
type Store interface {
	Commit(ctx context.Context, b Batch) (Committed, error)
	Follow(ctx context.Context, after Position, fn func(Committed) error) error
	Snapshot(ctx context.Context, fn func(Object) error) (Position, error)
	Position(ctx context.Context) (Position, error)
	// History returns the batches that changed an object, newest first, each with only the change of that object;
	// a limit of 0 means all that is retained.
	History(ctx context.Context, k Key, limit int) ([]Committed, error)
	// Compact drops history up to and including the revision; the newest state of every object stays.
	Compact(ctx context.Context, upTo uint64) error

	Observe(ctx context.Context, obs ...Observation) error
	Observations(ctx context.Context, prefix string) ([]Observation, error)

	// Acquire takes or extends a lease by database time. It returns ErrFenced when another holder has it. The counter rises
	// whenever the lease changes hands; an expired lease still fences until someone else takes it.
	Acquire(ctx context.Context, name, holder string, ttl time.Duration) (Fence, error)
	// Release ends a lease; it returns ErrFenced when it was lost already.
	Release(ctx context.Context, f Fence) error

	// RaiseEpoch starts a new epoch of the lineage; to be called after every restore, import or forced promotion.
	RaiseEpoch(ctx context.Context) (Lineage, error)
	Close() error
}

// What one object may hold, in bytes.
const (
	MaxData = 2 << 20 // of Data
	MaxKey  = 1 << 10 // of type, mesh and name together, and of an observation's or a lease's name
)

// Validate checks what every implementation requires of a batch.
func (b Batch) Validate() error {
	if b.ID == (BatchID{}) {
		return fmt.Errorf("%w: it has no id", ErrInvalid)
	}
	if len(b.Ops) == 0 {
		return fmt.Errorf("%w: it has no operations", ErrInvalid)
	}
	if !text(b.Author, b.Reason) || b.Fence != nil && !text(b.Fence.Name, b.Fence.Holder) {
		return fmt.Errorf("%w: its author, reason or fence is not UTF-8 text without NUL", ErrInvalid)
	}
	if f := b.Fence; f != nil && (f.Name == "" || f.Holder == "") {
		return fmt.Errorf("%w: its fence lacks a name or holder", ErrInvalid)
	}
	seen := make(map[Key]bool, len(b.Ops))
	for _, op := range b.Ops {
		k := op.Object.Key
		switch {
		case k.Type == "" || k.Name == "":
			return fmt.Errorf("%w: %q lacks a type or name", ErrInvalid, k)
		case seen[k]:
			return fmt.Errorf("%w: %s appears twice", ErrInvalid, k)
		case !op.Object.text():
			return fmt.Errorf("%w: %q has a key or label that is not UTF-8 text without NUL", ErrInvalid, k)
		case op.Object.Owner != nil && (op.Object.Owner.Type == "" || op.Object.Owner.Name == ""):
			return fmt.Errorf("%w: the owner of %s lacks a type or name", ErrInvalid, k)
		case k.size() > MaxKey || op.Object.Owner != nil && op.Object.Owner.size() > MaxKey:
			return fmt.Errorf("%w: a key has more than %d bytes: %.100s", ErrInvalid, MaxKey, k)
		case len(op.Object.Data) > MaxData:
			return fmt.Errorf("%w: %s has %d bytes, at most %d are allowed", ErrInvalid, k, len(op.Object.Data), MaxData)
		case op.Expect < ExpectAny:
			return fmt.Errorf("%w: %s expects version %d", ErrInvalid, k, op.Expect)
		}
		seen[k] = true
	}
	return nil
}

func (k Key) size() int { return len(k.Type) + len(k.Mesh) + len(k.Name) }

// text says whether the key, owner, UID and labels can be kept by every database.
func (o Object) text() bool {
	ok := text(o.Type, o.Mesh, o.Name, o.UID)
	if o.Owner != nil {
		ok = ok && text(o.Owner.Type, o.Owner.Mesh, o.Owner.Name)
	}
	for k, v := range o.Labels {
		ok = ok && text(k, v)
	}
	return ok
}

func text(ss ...string) bool {
	for _, s := range ss {
		if !utf8.ValidString(s) || strings.ContainsRune(s, 0) {
			return false
		}
	}
	return true
}

// Next is the chain after a batch: H(previous ‖ revision ‖ batch id ‖ each change), the same in every implementation.
func (c Chain) Next(revision uint64, id BatchID, changes []Change) Chain {
	h := sha256.New()
	h.Write(c[:])
	var n [8]byte
	num := func(v uint64) {
		binary.BigEndian.PutUint64(n[:], v)
		h.Write(n[:])
	}
	str := func(s string) {
		num(uint64(len(s)))
		h.Write([]byte(s))
	}
	num(revision)
	h.Write(id[:])
	num(uint64(len(changes)))
	for _, ch := range changes {
		o := ch.Object
		num(uint64(o.Class))
		str(o.Type)
		str(o.Mesh)
		str(o.Name)
		str(o.UID)
		num(o.Version)
		if ch.Deleted {
			num(1)
			continue
		}
		num(0)
		num(uint64(len(o.Labels)))
		for _, k := range slices.Sorted(maps.Keys(o.Labels)) {
			str(k)
			str(o.Labels[k])
		}
		str(string(o.Data))
	}
	var next Chain
	h.Sum(next[:0])
	return next
}
