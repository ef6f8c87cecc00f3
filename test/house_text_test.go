package test

import (
	"bytes"
	"go/ast"
	"go/format"
	"go/token"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
)

func unformatted(f *file) []string {
	want, err := format.Source(f.source)
	if err != nil || bytes.Equal(want, f.source) { // what does not parse is another rule's
		return nil
	}
	return []string{f.path}
}

// silentSkips looks where a *testing.T can be: in files that import testing.
func silentSkips(f *file) (found []string) {
	if !slices.Contains(f.imports, "testing") {
		return nil
	}
	ast.Inspect(f.syntax, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok {
			return true
		}
		s, ok := call.Fun.(*ast.SelectorExpr)
		if ok && slices.Contains([]string{"Skip", "Skipf", "SkipNow"}, s.Sel.Name) && !slices.ContainsFunc(call.Args, hasWords) {
			found = append(found, f.at(n))
		}
		return true
	})
	return found
}

// hasWords reports whether an argument is or holds a string literal with a letter.
func hasWords(x ast.Expr) (words bool) {
	letters := regexp.MustCompile(`\pL`)
	verbs := regexp.MustCompile(`%[-+# 0-9.]*[a-zA-Z]`)
	ast.Inspect(x, func(n ast.Node) bool {
		lit, ok := n.(*ast.BasicLit)
		words = words || ok && lit.Kind == token.STRING && letters.MatchString(verbs.ReplaceAllString(lit.Value, ""))
		return true
	})
	return words
}

var (
	code = regexp.MustCompile("(?ms)^ *```.*?^ *```|`[^`\n]*`")
	// link is [text](target), with or without a title, or a line "[name]: target".
	link = regexp.MustCompile(`\]\(<?([^)\s>]+)>?(?:\s+"[^"]*")?\)|(?m)^\[[^\]]+\]:\s+(\S+)`)
	// scheme begins a link to elsewhere.
	scheme = regexp.MustCompile(`^([a-z][a-z0-9+.-]*:|//)`)
)

func deadLinks(h *house) (found []string) {
	documents, err := fs.Glob(h.tree, "docs/*.md")
	if err != nil {
		return []string{err.Error()}
	}
	for _, document := range append(documents, "README.md", "CONTRIBUTING.md") {
		text, err := fs.ReadFile(h.tree, document)
		if err != nil { // not written yet
			continue
		}
		for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(string(text), ""), -1) {
			target, _, _ := strings.Cut(m[1]+m[2], "#")
			if target == "" || scheme.MatchString(target) {
				continue
			}
			place := path.Join(path.Dir(document), target)
			if rooted, ok := strings.CutPrefix(target, "/"); ok {
				place = path.Clean(rooted)
			}
			if _, err := fs.Stat(h.tree, place); err != nil {
				found = append(found, document+" points to "+target)
			}
		}
	}
	return found
}
