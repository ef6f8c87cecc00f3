package kubeapi

import (
	"os"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// A kubeconfig of an account is that account's, also after its token was replaced.
func TestWriteKubeconfig(t *testing.T) {
	s := started(t)
	client := func(kubeconfig string) kubernetes.Interface {
		config, err := s.Config(kubeconfig)
		check(t, err)
		c, err := kubernetes.NewForConfig(config)
		check(t, err)
		return c
	}
	who := func(c kubernetes.Interface) string {
		review, err := c.AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		check(t, err)
		return review.Status.UserInfo.Username
	}
	a := Account{Namespace: "kube-system", Name: "proxy"}
	if _, _, err := s.WriteKubeconfig(t.Context(), a); err == nil {
		t.Error("a token for an account that does not exist")
	}
	_, err := client(s.Kubeconfig()).CoreV1().ServiceAccounts(a.Namespace).Create(t.Context(),
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: a.Name}}, metav1.CreateOptions{})
	check(t, err)
	tokens := map[string]bool{}
	for range 2 {
		kubeconfig, token, err := s.WriteKubeconfig(t.Context(), a)
		check(t, err)
		text, err := os.ReadFile(token)
		check(t, err)
		tokens[string(text)] = true
		if got, want := who(client(kubeconfig)), "system:serviceaccount:kube-system:proxy"; got != want {
			t.Errorf("it is %s, want %s", got, want)
		}
	}
	if len(tokens) != 2 {
		t.Error("the second token is the first")
	}
}
