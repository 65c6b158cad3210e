package dns

import (
	"container/list"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Bounds of the cache.
const (
	maxEntries     = 8192
	maxCachedBytes = 8 << 10 // of one answer; larger ones are asked for again
	maxTTL         = time.Hour
	maxNegativeTTL = time.Minute
)

// A key is what makes answers differ.
type key struct {
	name         string // lower case
	typ, class   uint16
	dnssec, noCD bool
}

func keyOf(q *dns.Msg) key {
	k := key{name: strings.ToLower(q.Question[0].Name), typ: q.Question[0].Qtype, class: q.Question[0].Qclass, noCD: !q.CheckingDisabled}
	if opt := q.IsEdns0(); opt != nil {
		k.dnssec = opt.Do()
	}
	return k
}

type entry struct {
	key      key
	msg      *dns.Msg
	from, to time.Time
}

// cache keeps answers for as long as their servers allow, the least recently used going first when there is no room.
type cache struct {
	now func() time.Time

	mu      sync.Mutex
	entries map[key]*list.Element
	recent  *list.List // of *entry, most recently used first
}

func newCache(now func() time.Time) *cache {
	return &cache{now: now, entries: map[key]*list.Element{}, recent: list.New()}
}

// get gives an answer that is still good, with what is left of its time.
func (c *cache) get(k key) *dns.Msg {
	now := c.now()
	c.mu.Lock()
	el, ok := c.entries[k]
	if !ok {
		c.mu.Unlock()
		return nil
	}
	e := el.Value.(*entry)
	if !now.Before(e.to) {
		c.drop(el)
		c.mu.Unlock()
		return nil
	}
	c.recent.MoveToFront(el)
	c.mu.Unlock()
	m := e.msg.Copy()
	// What was kept for less than its records allow does not live longer elsewhere.
	age, left := uint32(now.Sub(e.from)/time.Second), uint32((e.to.Sub(now)+time.Second-1)/time.Second)
	for _, section := range [][]dns.RR{m.Answer, m.Ns, m.Extra} {
		for _, rr := range section {
			h := rr.Header()
			h.Ttl = min(h.Ttl-min(h.Ttl, age), left)
		}
	}
	return m
}

func (c *cache) put(k key, m *dns.Msg) {
	ttl := lifetime(m)
	if ttl <= 0 || m.Len() > maxCachedBytes {
		return
	}
	now := c.now()
	e := &entry{k, m, now, now.Add(ttl)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[k]; ok {
		c.drop(el)
	}
	c.entries[k] = c.recent.PushFront(e)
	if c.recent.Len() > maxEntries {
		c.drop(c.recent.Back())
	}
}

func (c *cache) drop(el *list.Element) {
	delete(c.entries, el.Value.(*entry).key)
	c.recent.Remove(el)
}

func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	clear(c.entries)
	c.recent.Init()
}

// lifetime is for how long an answer may be kept: the least of its records, and of one that says no, what the SOA allows.
// Without an SOA nobody said for how long there is nothing.
func lifetime(m *dns.Msg) time.Duration {
	if m.Truncated || m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return 0
	}
	if m.Rcode == dns.RcodeNameError || len(m.Answer) == 0 {
		for _, rr := range m.Ns {
			if s, ok := rr.(*dns.SOA); ok {
				return min(time.Duration(min(s.Hdr.Ttl, s.Minttl))*time.Second, maxNegativeTTL)
			}
		}
		return 0
	}
	ttl := maxTTL
	for _, section := range [][]dns.RR{m.Answer, m.Ns} {
		for _, rr := range section {
			ttl = min(ttl, time.Duration(rr.Header().Ttl)*time.Second)
		}
	}
	return ttl
}
