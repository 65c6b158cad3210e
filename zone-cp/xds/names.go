package xds

import "slices"

// names is a sorted set of resource names. Its strings are those of fragments where there are any,
// so that a set costs a stream sixteen bytes per name.
type names []string

func (n names) has(name string) bool {
	_, ok := slices.BinarySearch(n, name)
	return ok
}

// with returns the set with more names; the old one may be reused.
func (n names) with(more []string) names {
	if len(more) == 0 {
		return n
	}
	n = append(n, more...)
	slices.Sort(n)
	return slices.Clip(slices.Compact(n))
}

// without returns the set with fewer names.
func (n names) without(fewer []string) names {
	if len(fewer) == 0 || len(n) == 0 {
		return n
	}
	drop := names(nil).with(slices.Clone(fewer))
	n = slices.DeleteFunc(n, drop.has)
	if len(n) == 0 {
		return nil
	}
	return slices.Clip(n)
}
