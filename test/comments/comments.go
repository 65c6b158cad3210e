// Package comments reads what the Go source says about types and their fields, which compilation throws away: the doc comments of
// structs, and the constants of string types. It judges nothing of what it reads; package schema does, and its tests.
package comments

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Folders are those whose types are part of the API, from the top of the repository.
var Folders = []string{"api/mesh", "api/policies", "api/policy", "api/resource", "api/rest"}

// Of reads the packages in and below Folders and returns one line for each fact, sorted: the path of the package with the type and
// the field, a tab, and the comment. A line whose name ends with "=" holds the constants of a string type, one without a type is about a package.
func Of(fsys fs.FS) ([]byte, error) {
	facts := map[string]string{}
	for _, folder := range Folders {
		if err := readFolder(facts, fsys, folder); err != nil {
			return nil, fmt.Errorf("read comments: %w", err)
		}
	}
	var b bytes.Buffer
	for _, k := range slices.Sorted(maps.Keys(facts)) {
		if facts[k] != "" {
			fmt.Fprintf(&b, "%s\t%s\n", k, facts[k])
		}
	}
	return b.Bytes(), nil
}

func readFolder(facts map[string]string, fsys fs.FS, folder string) error {
	return fs.WalkDir(fsys, folder, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == "testdata":
			return fs.SkipDir
		case d.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasSuffix(name, ".pb.go"):
			return nil
		}
		src, err := fs.ReadFile(fsys, name)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, src, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		if doc := line(f.Doc); doc != "" {
			facts[path.Dir(name)] = doc
		}
		read(facts, path.Dir(name)+".", f)
		return nil
	})
}

func read(facts map[string]string, prefix string, f *ast.File) {
	for _, d := range f.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, s := range g.Specs {
			switch s := s.(type) {
			case *ast.TypeSpec:
				readType(facts, prefix, g, s)
			case *ast.ValueSpec:
				if g.Tok == token.CONST {
					readConstants(facts, prefix, s)
				}
			}
		}
	}
}

// readType keeps structs that are read or written as JSON, and the comments of string types.
func readType(facts map[string]string, prefix string, g *ast.GenDecl, s *ast.TypeSpec) {
	doc := s.Doc
	if doc == nil && len(g.Specs) == 1 {
		doc = g.Doc
	}
	name := prefix + s.Name.Name
	st, ok := s.Type.(*ast.StructType)
	if !ok {
		if id, isName := s.Type.(*ast.Ident); isName && id.Name == "string" {
			facts[name] = line(doc)
		}
		return
	}
	isJSON := false
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		tag, err := strconv.Unquote(f.Tag.Value)
		if err != nil || reflect.StructTag(tag).Get("json") == "" {
			continue
		}
		isJSON = true
		for _, n := range f.Names {
			if text := line(f.Doc, f.Comment); text != "" {
				facts[name+"."+n.Name] = text
			}
		}
	}
	if isJSON {
		facts[name] = line(doc)
	}
}

func readConstants(facts map[string]string, prefix string, s *ast.ValueSpec) {
	typ, ok := s.Type.(*ast.Ident)
	if !ok || !ast.IsExported(typ.Name) {
		return
	}
	for _, v := range s.Values {
		lit, ok := v.(*ast.BasicLit)
		if !ok || lit.Kind != token.STRING {
			continue
		}
		if value, err := strconv.Unquote(lit.Value); err == nil {
			name := prefix + typ.Name + "="
			facts[name] = strings.TrimPrefix(facts[name]+" "+value, " ")
		}
	}
}

// line is the first comment that is there, on one line.
func line(groups ...*ast.CommentGroup) string {
	for _, g := range groups {
		if text := strings.Join(strings.Fields(g.Text()), " "); text != "" {
			return text
		}
	}
	return ""
}
