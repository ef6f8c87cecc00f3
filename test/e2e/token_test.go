package e2e

import (
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"switchyard/test/netlab"
)

// tokenReplaced: the kubelet puts a new token in place of one that ends. The
// program goes on with the new one, without a word and without a restart. A
// connection that stands is not asked for its token again, so the API server is
// restarted; the old token is bound to a Secret, and ends with it.
func (c *cluster) tokenReplaced(t *testing.T) {
	c.registerNodeA(t)
	c.create(t, web)
	c.create(t, slice("web", podA1))
	for _, name := range []string{"first", "second"} {
		c.create(t, "apiVersion: v1\nkind: Secret\nmetadata: {name: "+name+", namespace: kube-system}")
	}
	p := c.program(t, c.lab.Host(netlab.NodeA))
	first := c.token(t, "first")
	p.account.put(t, "token", first)
	p.start()
	p.inSync()
	c.reaches(t, netlab.Outside, "172.30.0.41:80", podA1)

	p.account.put(t, "token", c.token(t, "second"))
	check(t, c.admin.CoreV1().Secrets("kube-system").Delete(t.Context(), "first", metav1.DeleteOptions{}))
	c.withoutAPI(t)
	c.startAPI(t)
	if c.isGood(t, first) {
		t.Fatal("the first token still counts: this test shows nothing")
	}
	c.point(t, "web", podA2)
	took := c.reaches(t, netlab.Outside, "172.30.0.41:80", podA2)
	t.Logf("a change took effect %s after the first token had ended", took.Round(time.Millisecond))
}

// isGood asks the API server whether a token counts.
func (c *cluster) isGood(t *testing.T, token string) bool {
	t.Helper()
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	answer, err := c.admin.AuthenticationV1().TokenReviews().Create(t.Context(), review, metav1.CreateOptions{})
	check(t, err)
	return answer.Status.Authenticated
}
