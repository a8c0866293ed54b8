"""Base types: errors, specs, the contract, bundles and probabilities. Needs only numpy and pydantic."""
