// Evaluates pods against a Pod Security level: a JSON list of pods on stdin, a JSON list of violations on stdout.
package main

import (
	"encoding/json"
	"log"
	"os"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
)

func main() {
	level, err := api.ParseLevel(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	var pods []corev1.PodTemplateSpec
	if err := json.NewDecoder(os.Stdin).Decode(&pods); err != nil {
		log.Fatal(err)
	}
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		log.Fatal(err)
	}
	violations := []string{}
	version := api.LevelVersion{Level: level, Version: api.LatestVersion()}
	for _, pod := range pods {
		result := policy.AggregateCheckResults(evaluator.EvaluatePod(version, &pod.ObjectMeta, &pod.Spec))
		violations = append(violations, result.ForbiddenDetail())
	}
	if err := json.NewEncoder(os.Stdout).Encode(violations); err != nil {
		log.Fatal(err)
	}
}
