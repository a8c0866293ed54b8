"""The ground of everything: errors, specs, the contract, bundles and probabilities. numpy and pydantic alone."""
