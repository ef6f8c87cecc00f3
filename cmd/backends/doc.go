// Package backends lists the backends: a new one is its folder and a line here.
package backends
