package agentapi

import (
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"strings"
	"sync"
	"weak"

	"google.golang.org/protobuf/proto"
)

// maxNamesPart bounds the bytes of one message of names; more are sent in several.
const maxNamesPart = 256 << 10

// A NameSet is all names that some agents get. It is immutable; its messages are encoded once and shared by everybody who sends them.
type NameSet struct {
	version string
	domains []string
	records []*NameRecord // sorted by name

	mu sync.Mutex
	// updates holds ready messages by what they start from (nil: nothing). Weak: a set must not keep its predecessors alive.
	updates map[weak.Pointer[NameSet]][]*ZoneMessage
}

// NewNameSet makes a set of records sorted by name, and of the domains in which there are no other names. Both belong to it from now on.
func NewNameSet(records []*NameRecord, domains []string) *NameSet {
	s := &NameSet{records: records, domains: domains}
	h := sha256.New()
	b, _ := proto.MarshalOptions{Deterministic: true}.Marshal(&Names{Records: records, Domains: domains}) // fails for strings that are no UTF-8 only
	h.Write(b)
	s.version = base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12])
	return s
}

// Version tells sets with other content apart, wherever they were made.
func (s *NameSet) Version() string { return s.version }

// Since gives the messages that turn another set (nil: nothing) into this one. They are shared and must not be changed.
func (s *NameSet) Since(old *NameSet) []*ZoneMessage {
	if old != nil && old.version == s.version {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := weak.Make(old)
	if m, ok := s.updates[key]; ok {
		return m
	}
	if len(s.updates) >= 4 {
		clear(s.updates)
	}
	if s.updates == nil {
		s.updates = map[weak.Pointer[NameSet]][]*ZoneMessage{}
	}
	m := s.since(old)
	s.updates[key] = m
	return m
}

func (s *NameSet) since(old *NameSet) []*ZoneMessage {
	records, removed, from := s.records, []string(nil), ""
	if old != nil {
		from = old.version
		records, removed = s.changes(old)
	}
	var out []*ZoneMessage
	for {
		part := &Names{Version: s.version, From: from, Domains: s.domains}
		size := 0
		for len(removed) > 0 && size < maxNamesPart {
			size += len(removed[0]) + 4
			part.Removed, removed = append(part.Removed, removed[0]), removed[1:]
		}
		for len(records) > 0 && size < maxNamesPart {
			size += proto.Size(records[0]) + 4
			part.Records, records = append(part.Records, records[0]), records[1:]
		}
		part.More = len(records)+len(removed) > 0
		out = append(out, ready(part))
		if !part.More {
			return out
		}
	}
}

// changes compares two sorted lists.
func (s *NameSet) changes(old *NameSet) (records []*NameRecord, removed []string) {
	i, j := 0, 0
	for i < len(old.records) || j < len(s.records) {
		switch {
		case j == len(s.records) || i < len(old.records) && old.records[i].Name < s.records[j].Name:
			removed = append(removed, old.records[i].Name)
			i++
		case i == len(old.records) || s.records[j].Name < old.records[i].Name:
			records = append(records, s.records[j])
			j++
		default:
			if !slices.EqualFunc(old.records[i].Addresses, s.records[j].Addresses, func(a, b []byte) bool { return string(a) == string(b) }) {
				records = append(records, s.records[j])
			}
			i++
			j++
		}
	}
	return records, removed
}

// ready makes a message whose content is encoded already: as a field that this message does not know, which is sent as it is.
func ready(n *Names) *ZoneMessage {
	b, _ := proto.Marshal(&ZoneMessage{Message: &ZoneMessage_Names{Names: n}})
	m := &ZoneMessage{}
	m.ProtoReflect().SetUnknown(b)
	return m
}

// CompareRecords orders records as a NameSet wants them.
func CompareRecords(a, b *NameRecord) int { return strings.Compare(a.GetName(), b.GetName()) }
