package schema

import (
	_ "embed"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// commentsText is what the source says: a line for each type and field, and for the constants of each string type.
//
//go:embed comments.txt
var commentsText string

func parse(text string) map[string]string {
	out := map[string]string{}
	for l := range strings.Lines(text) {
		name, comment, ok := strings.Cut(strings.TrimSuffix(l, "\n"), "\t")
		if ok {
			out[name] = comment
		}
	}
	return out
}

// Facts are what a comment says in words that can be relied on.
type Facts struct {
	// Required is a field that must be set: the sentence "Required."
	Required bool
	// Default is what holds when the field is absent, in words: the sentence "Default 5s."
	Default string
	// Values are all that may be written: a first sentence "Type is A, B or C." Empty when there are others.
	Values []string
	// Min and Max bound a number: "1 to 65535", "from 2", "Greater than 0". Nil where there is no bound.
	Min, Max *float64
	// Above excludes Min itself.
	Above bool
	// Removed is a field of earlier versions: "is no longer supported".
	Removed bool
	// Computed is a field that the control plane sets: "what is written here is ignored".
	Computed bool
}

var (
	defaultWords = regexp.MustCompile(`^Default:? (.+)$`)
	between      = regexp.MustCompile(`\b(\d+) to (\d+)\b`)
	from         = regexp.MustCompile(`\bfrom (\d+)\b`)
	greater      = regexp.MustCompile(`(?i)\bgreater than (\d+)\b`)
	atMost       = regexp.MustCompile(`\bat most (\d+)\b`)
	choice       = regexp.MustCompile(`^\w+ (?:is|are) (.+)$`)
	afterColon   = regexp.MustCompile(`^[^:;]+: (.+)$`)
	word         = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	aside        = regexp.MustCompile(` \([^)]*\)`)
)

// read finds the facts in a comment.
func read(doc string, t *Type) Facts {
	var f Facts
	list := sentences(doc)
	for i, s := range list {
		if i == 0 {
			f.Values = valuesIn(s, t)
		}
		if m := defaultWords.FindStringSubmatch(s); m != nil {
			f.Default = m[1]
		}
		f.Required = f.Required || s == "Required" || strings.HasPrefix(s, "Required;")
		f.Removed = f.Removed || strings.Contains(s, "no longer supported")
		f.Computed = f.Computed || strings.Contains(s, "what is written here is ignored")
	}
	if f.Values == nil {
		f.Values = t.Values
	}
	if t.Form == Integer || t.Form == Number {
		f.bounds(aside.ReplaceAllString(doc, ""))
	}
	return f
}

// sentences cuts a comment where a full stop is followed by space.
func sentences(doc string) []string {
	var out []string
	for s := range strings.SplitSeq(strings.TrimSuffix(doc, "."), ". ") {
		out = append(out, strings.TrimSpace(s))
	}
	return out
}

// valuesIn reads "Type is A (which means this), B or C". One value alone is only believed with a capital.
func valuesIn(sentence string, t *Type) []string {
	if t.Form != Text && t.Form != Integer || t.Format != "" {
		return nil
	}
	sentence = aside.ReplaceAllString(sentence, "")
	for _, pattern := range []*regexp.Regexp{choice, afterColon} {
		m := pattern.FindStringSubmatch(sentence)
		if m == nil {
			continue
		}
		list, _, _ := strings.Cut(m[1], ";")
		list = strings.ReplaceAll(strings.ReplaceAll(list, " or ", ", "), " and ", ", ")
		values := strings.Split(list, ", ")
		if slices.ContainsFunc(values, func(v string) bool { return !word.MatchString(v) }) {
			continue
		}
		if t.Form == Integer && slices.ContainsFunc(values, func(v string) bool { _, err := strconv.Atoi(v); return err != nil }) {
			continue
		}
		if len(values) > 1 || pattern == choice && values[0] != strings.ToLower(values[0]) {
			return values
		}
	}
	return nil
}

func (f *Facts) bounds(doc string) {
	number := func(s string) *float64 {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil {
			return nil
		}
		return &n
	}
	if m := between.FindStringSubmatch(doc); m != nil {
		f.Min, f.Max = number(m[1]), number(m[2])
		return
	}
	if m := from.FindStringSubmatch(doc); m != nil {
		f.Min = number(m[1])
	}
	if m := greater.FindStringSubmatch(doc); m != nil {
		f.Min, f.Above = number(m[1]), true
	}
	if m := atMost.FindStringSubmatch(doc); m != nil {
		f.Max = number(m[1])
	}
}

// Literal is the default as a value of the type, when the words are nothing but that: 10, false, "5s", "/" or one of the values.
func (f Facts) Literal(t *Type) (any, bool) {
	d := f.Default
	switch {
	case t.Form == Boolean:
		v, err := strconv.ParseBool(d)
		return v, err == nil
	case t.Form == Integer || t.Form == Number:
		if v, err := strconv.ParseInt(d, 10, 64); err == nil {
			return v, true
		}
		_, err := strconv.ParseFloat(d, 64)
		return d, t.Form == Number && err == nil
	case t.Format == FormatDuration:
		v, err := time.ParseDuration(d)
		if err == nil && d == "0" {
			d = v.String()
		}
		return d, err == nil
	case t.Form == Text && slices.Contains(f.Values, d):
		return d, true
	case t.Form == Text && strings.HasPrefix(d, `"`):
		v, err := strconv.Unquote(d)
		return v, err == nil
	}
	return nil, false
}
