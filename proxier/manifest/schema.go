package manifest

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// decodes is implemented by the API's types that read their JSON themselves.
var decodes = reflect.TypeFor[json.Unmarshaler]()

// schema checks a value against the Go type of an API object: unknown fields and
// values of the wrong type, each at its own place. A JSON decoder would stop at
// the first and know neither line nor index.
type schema struct {
	refuse func(at *value, path *field.Path, reason string)
}

func (s schema) check(v *value, t reflect.Type, path *field.Path) {
	if v.isNull() {
		return
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if reflect.PointerTo(t).Implements(decodes) {
		s.checkSelf(v, t, path)
		return
	}
	switch t.Kind() {
	case reflect.Struct:
		s.checkStruct(v, t, path)
	case reflect.Map:
		s.checkMap(v, t, path)
	case reflect.Slice:
		s.checkList(v, t, path)
	default:
		if want := mismatch(v, t); want != "" {
			s.refuse(v, path, v.String()+": expected "+want)
		}
	}
}

// checkSelf has the type itself read the value.
func (s schema) checkSelf(v *value, t reflect.Type, path *field.Path) {
	if json.Unmarshal(v.json(nil), reflect.New(t).Interface()) == nil {
		return
	}
	want := "what " + t.Name() + " reads"
	switch t {
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		want = "a time such as 2006-01-02T15:04:05Z"
	case reflect.TypeFor[intstr.IntOrString]():
		want = "an integer or a string"
	case reflect.TypeFor[resource.Quantity]():
		want = "a quantity such as 500m or 2Gi"
	}
	s.refuse(v, path, v.String()+": expected "+want)
}

func (s schema) checkStruct(v *value, t reflect.Type, path *field.Path) {
	if v.kind != object {
		s.refuse(v, path, v.String()+": expected an object")
		return
	}
	for _, m := range v.fields {
		at := path.Child(m.name)
		f, known := fieldOf(t, m.name)
		if !known {
			s.refuse(&value{line: m.line, column: m.column}, at, "unknown field")
			continue
		}
		s.check(m.value, f, at)
	}
}

// fieldOf returns the type of the field that JSON calls by that name.
func fieldOf(t reflect.Type, name string) (reflect.Type, bool) {
	for f := range t.Fields() {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name && name != "" && name != "-" {
			return f.Type, true
		}
		if !f.Anonymous || tag != "" {
			continue
		}
		if inner, ok := fieldOf(f.Type, name); ok {
			return inner, true
		}
	}
	return nil, false
}

func (s schema) checkMap(v *value, t reflect.Type, path *field.Path) {
	if v.kind != object {
		s.refuse(v, path, v.String()+": expected an object")
		return
	}
	for _, m := range v.fields {
		s.check(m.value, t.Elem(), path.Key(m.name))
	}
}

func (s schema) checkList(v *value, t reflect.Type, path *field.Path) {
	if v.kind != list {
		s.refuse(v, path, v.String()+": expected a list")
		return
	}
	for i, item := range v.items {
		s.check(item, t.Elem(), path.Index(i))
	}
}

// mismatch says what a scalar type wants instead of the value, "" if it fits.
func mismatch(v *value, t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		if _, ok := v.scalar.(string); v.kind != scalar || !ok {
			return "a string"
		}
	case reflect.Bool:
		if _, ok := v.scalar.(bool); v.kind != scalar || !ok {
			return "true or false"
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		n, ok := v.scalar.(int64)
		if _, huge := v.scalar.(uint64); huge || ok && reflect.Zero(t).OverflowInt(n) {
			return fmt.Sprintf("an integer of %d bits", t.Bits())
		}
		if !ok {
			return "an integer"
		}
	}
	return ""
}
