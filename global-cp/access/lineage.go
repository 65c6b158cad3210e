package access

// Lineage is the store that a zone joined with; empty when it has not joined.
func (a *Authority) Lineage(zoneID string) string {
	m, _, err := readMembers(a.cfg.Catalog.Snapshot())
	if err != nil {
		return ""
	}
	return m[zoneID].Lineage
}
