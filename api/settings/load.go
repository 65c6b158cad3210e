package settings

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/causeway-mesh/causeway/api/resource"
)

// Sources are where the values of settings come from, each overriding the one before.
type Sources struct {
	// FileName names the file in messages; File is its content, nil for none.
	FileName string
	File     []byte
	// Environ is the environment as NAME=value. Names that begin with EnvPrefix and mean nothing here stop the start.
	Environ []string
	// Known lists further variables with the prefix that other parts of the program read.
	Known []string
	// Flags holds the flags that were given, by flag name.
	Flags map[string]string
	// ReadFile reads the file that a secret's twin names; nil refuses such settings.
	ReadFile func(name string) ([]byte, error)
}

// A Validator is a configuration that can say what is wrong with it as a whole, by the paths of its settings.
type Validator interface{ Validate() resource.Problems }

// Load fills a pointer to a struct that holds the defaults. The error is resource.Problems with everything that is wrong:
// unknown settings with the nearest known one, values that do not fit, and what the struct's Validate finds.
func Load(into any, s Sources) error {
	l := loader{sources: s, settings: collect(reflect.ValueOf(into).Elem(), "", nil), from: map[string]string{}}
	l.file()
	l.environment()
	l.flags()
	if len(l.problems) > 0 {
		return l.problems
	}
	if v, ok := into.(Validator); ok {
		return l.explain(v.Validate()).Err()
	}
	return nil
}

type loader struct {
	sources  Sources
	settings []setting
	problems resource.Problems
	// from says which source set a path last, for the messages of Validate.
	from map[string]string
}

func (l *loader) find(match func(setting) bool) (setting, bool) {
	i := slices.IndexFunc(l.settings, match)
	if i < 0 {
		return setting{}, false
	}
	return l.settings[i], true
}

// assign sets one value from text; source names it in messages.
func (l *loader) assign(s setting, name, text, source string) {
	if s.fileOf {
		content, err := l.secretFile(text)
		if err != nil {
			l.problems.Add(resource.Path(name), "%s", err)
			return
		}
		text = content
	}
	if (s.secret || s.fileOf) && text == Mask {
		l.problems.Add(resource.Path(name), "is the mask of a printed secret, not the secret")
		return
	}
	if err := set(s.value, text); err != nil {
		l.problems.Add(resource.Path(name), "%s", err)
		return
	}
	l.from[strings.TrimSuffix(s.path, fileSuffix(s))] = source
}

func fileSuffix(s setting) string {
	if s.fileOf {
		return "File"
	}
	return ""
}

func (l *loader) secretFile(name string) (string, error) {
	if l.sources.ReadFile == nil {
		return "", errors.New("files cannot be read here; give the value itself")
	}
	b, err := l.sources.ReadFile(name)
	if err != nil {
		return "", fmt.Errorf("cannot be read: %w", err)
	}
	text := strings.TrimRight(string(b), "\r\n")
	if text == "" {
		return "", fmt.Errorf("names %s, which is empty", resource.Quote(name))
	}
	return text, nil
}

// file reads the YAML file. Every problem carries its line.
func (l *loader) file() {
	if len(bytes.TrimSpace(l.sources.File)) == 0 {
		return
	}
	d := yaml.NewDecoder(bytes.NewReader(l.sources.File))
	var doc, second yaml.Node
	if err := d.Decode(&doc); err != nil {
		if !errors.Is(err, io.EOF) { // a file of comments only
			l.problems.Add(resource.Path(l.sources.FileName), "is not valid YAML: %s", err)
		}
		return
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		l.problems.Add(resource.Path(l.sources.FileName), "must hold one document; the settings of one process are one file")
		return
	}
	l.mapping(doc.Content[0], "")
}

func (l *loader) place(n *yaml.Node) string { return fmt.Sprintf("%s:%d", l.sources.FileName, n.Line) }

func (l *loader) mapping(n *yaml.Node, at string) {
	if n.Kind == yaml.AliasNode {
		l.problems.Add(resource.Path(at), "aliases are not supported (%s)", l.place(n))
		return
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	if n.Kind != yaml.MappingNode {
		where := at
		if where == "" {
			where = l.sources.FileName
		}
		l.problems.Add(resource.Path(where), "must be an object of settings (%s)", l.place(n))
		return
	}
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		path := string(resource.Path(at).Field(key.Value))
		if seen[path] {
			l.problems.Add(resource.Path(path), "is given twice (%s)", l.place(key))
			continue
		}
		seen[path] = true
		l.entry(path, at, key, value)
	}
}

func (l *loader) entry(path, at string, key, value *yaml.Node) {
	if s, ok := l.find(func(s setting) bool { return s.path == path }); ok {
		l.fromNode(s, value)
		return
	}
	children := l.children(path)
	if len(children) > 0 {
		l.mapping(value, path)
		return
	}
	l.problems.Add(resource.Path(path), "unknown setting%s (%s)", suggest(key.Value, l.children(at)), l.place(key))
}

// children lists the names directly below a path.
func (l *loader) children(at string) []string {
	var out []string
	for _, s := range l.settings {
		rest := s.path
		if at != "" {
			var ok bool
			if rest, ok = strings.CutPrefix(s.path, at+"."); !ok {
				continue
			}
		}
		name, _, _ := strings.Cut(rest, ".")
		if !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}

func (l *loader) fromNode(s setting, n *yaml.Node) {
	source := l.place(n)
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return
	}
	var err error
	switch kind := kindOf(s.value.Type()); {
	case kind == kindList && !s.fileOf && n.Kind == yaml.SequenceNode:
		texts := make([]string, 0, len(n.Content))
		for _, c := range n.Content {
			if c.Kind != yaml.ScalarNode {
				l.problems.Add(resource.Path(s.path), "must be a list of plain values (%s)", l.place(c))
				return
			}
			texts = append(texts, c.Value)
		}
		err = setList(s.value, texts)
	case kind == kindMap && !s.fileOf && n.Kind == yaml.MappingNode:
		texts := map[string]string{}
		for i := 0; i < len(n.Content); i += 2 {
			if n.Content[i+1].Kind != yaml.ScalarNode {
				l.problems.Add(resource.Path(s.path), "must be a map of plain values (%s)", l.place(n.Content[i+1]))
				return
			}
			texts[n.Content[i].Value] = n.Content[i+1].Value
		}
		err = setMap(s.value, texts)
	case n.Kind != yaml.ScalarNode:
		err = fmt.Errorf("must be a %s", s.describe().Kind)
	default:
		before := len(l.problems)
		l.assign(s, s.path, n.Value, source)
		for i := before; i < len(l.problems); i++ {
			l.problems[i].Reason += " (" + source + ")"
		}
		return
	}
	if err != nil {
		l.problems.Add(resource.Path(s.path), "%s (%s)", err, source)
		return
	}
	l.from[s.path] = source
}

// kubernetesService matches the variables that Kubernetes injects for a Service whose name begins with "causeway".
var kubernetesService = regexp.MustCompile(`(_SERVICE_HOST|_SERVICE_PORT(_[A-Z0-9_]+)?|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)$`)

func (l *loader) environment() {
	env := map[string]string{}
	for _, e := range l.sources.Environ {
		if name, value, ok := strings.Cut(e, "="); ok && strings.HasPrefix(name, EnvPrefix) {
			env[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		s, ok := l.find(func(s setting) bool { return envName(s.path) == name })
		switch {
		case ok:
			l.assign(s, name, env[name], name)
		case slices.Contains(l.sources.Known, name):
		case kubernetesService.MatchString(name) || strings.HasSuffix(name, "_PORT") && strings.Contains(env[name], "://"):
		default:
			l.problems.Add(resource.Path(name), "unknown setting in the environment%s", suggest(name, l.names(envName)))
		}
	}
}

func (l *loader) flags() {
	for _, name := range slices.Sorted(maps.Keys(l.sources.Flags)) {
		s, ok := l.find(func(s setting) bool { return flagName(s.path) == name })
		if !ok {
			l.problems.Add(resource.Path("--"+name), "unknown flag%s", suggest(name, l.names(flagName)))
			continue
		}
		l.assign(s, "--"+name, l.sources.Flags[name], "--"+name)
	}
}

func (l *loader) names(of func(string) string) []string {
	var out []string
	for _, s := range l.settings {
		out = append(out, of(s.path))
	}
	return out
}

func suggest(word string, known []string) string {
	if near := resource.Nearest(word, known); near != "" {
		return fmt.Sprintf(", did you mean %s?", resource.Quote(near))
	}
	return ""
}

// explain adds to what Validate found where the value came from, and how to set one that nobody set.
func (l *loader) explain(ps resource.Problems) resource.Problems {
	for i, p := range ps {
		if source, ok := l.from[p.Field]; ok {
			ps[i].Reason += " (set by " + source + ")"
		} else if _, ok := l.find(func(s setting) bool { return s.path == p.Field }); ok {
			ps[i].Reason += fmt.Sprintf(" (set it with --%s or %s)", flagName(p.Field), envName(p.Field))
		}
	}
	return ps
}
