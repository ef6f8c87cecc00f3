// Package events tells the people who write Services, and those who run nodes,
// what the proxy has to say to them: as Events of the API (events.k8s.io/v1), which
// `kubectl describe` shows beside the object.
//
//	Problem, Note, SetAside ─┐
//	port that is taken      ─┼─ Object, Node ─► queue ─ uid ─► client-go's recorder ─► API
//	bad configuration file  ─┘                 (full: dropped)
//
// Nothing waits for the API server: an Event that cannot be sent is lost, the same
// words are in the log. Equal ones are counted in one Event, by client-go.
package events
