package main

import (
	"time"

	"github.com/spf13/cobra"
)

// completionBudget is how long a key press may wait for names from a server.
const completionBudget = 300 * time.Millisecond

func (p *program) completionCommand() *cobra.Command {
	shell := func(name, example string, generate func(root *cobra.Command) error) *cobra.Command {
		return &cobra.Command{
			Use: name, Short: "Print the completion script for " + name, Args: cobra.NoArgs, Example: example,
			RunE: func(cmd *cobra.Command, _ []string) error { return generate(cmd.Root()) },
		}
	}
	return group("completion", "Print a script that completes commands, types and names",
		"  source <(causeway completion bash)\n  causeway completion zsh > ~/.zfunc/_causeway",
		shell("bash", "  source <(causeway completion bash)\n  causeway completion bash > /etc/bash_completion.d/causeway",
			func(root *cobra.Command) error { return root.GenBashCompletionV2(p.stdout, true) }),
		shell("zsh", "  source <(causeway completion zsh)\n  causeway completion zsh > ~/.zfunc/_causeway",
			func(root *cobra.Command) error { return root.GenZshCompletion(p.stdout) }),
		shell("fish", "  causeway completion fish | source\n  causeway completion fish > ~/.config/fish/completions/causeway.fish",
			func(root *cobra.Command) error { return root.GenFishCompletion(p.stdout, true) }),
		shell("powershell", "  causeway completion powershell | Out-String | Invoke-Expression\n  causeway completion powershell > causeway.ps1",
			func(root *cobra.Command) error { return root.GenPowerShellCompletionWithDesc(p.stdout) }),
	)
}
