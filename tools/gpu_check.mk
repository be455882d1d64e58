# What `make gpu-check` runs in a folder that gpu_pack.sh made, on a machine with a GPU. Each program's output is $(OUT)/NAME.log.
#
#   gpu-check      parity with the references, whole models, a step's ops beside the bound, the memory checker
#   gpu-parity     parity alone
#   gpu-http       the system tests of serving, evaluation and law 2 on this GPU (SUITES="http openai": those alone); needs a Python that the pack is for (gpu_pack.sh)
#   gpu-model      golden checkpoints, tiny-r1's answers, law 2 through the engine, DeepSeek-R1's slice behind HTTP, no compiler opened
#                  (PARTS="golden answers compilers slice")
#   gpu-precompile nothing is left to compile (with the driver's JIT off); tiles measured for R1's slice, tiny-r1 answers with measured tiles as without
#   gpu-memcheck   compute-sanitizer: memcheck on all, racecheck on those of $(racing)
#   gpu-bench-table  a decode step of 1, 32, 64, 128, 256 sequences at 1,024, 2,048, 4,096, 8,192 tokens (SHAPE=text: those alone)
#   gpu-bench      one rank's share of DeepSeek-R1, op by op (SHAPE=text: those steps alone); slice.svg is their roofline; slice_trace.json has a step of each, for ui.perfetto.dev;
#                  the decode steps of 128 sequences with an FP8 KV cache; decode attention over such a cache beside bf16
OUT ?= out
SHELL := bash
.SHELLFLAGS := -o pipefail -c
export LD_LIBRARY_PATH := $(CURDIR)/lib:$(LD_LIBRARY_PATH)
tests = $(notdir $(wildcard bin/gpu_test_*))
# racecheck does not follow a lane that arrives at a barrier for its warp, nor see what wgmma reads: the kernels that multiply are checked as built for it
# (PROA_EVERY_LANE, PROA_WARP_PRODUCTS)
racing = gpu_test_cache gpu_test_linear_warp gpu_test_mla_decode_warp gpu_test_mla_decode_fp8_warp gpu_test_products gpu_test_rows gpu_test_sample

.PHONY: gpu-check gpu-parity gpu-http gpu-model gpu-precompile gpu-bench gpu-bench-table gpu-memcheck
gpu-check: gpu-parity gpu-http gpu-model gpu-precompile gpu-bench gpu-bench-table gpu-memcheck

gpu-model:
	@./gpu_model.sh bin/proa $(OUT)

gpu-http:
	@./gpu_http.sh $(OUT)

gpu-parity:
	@mkdir -p $(OUT); nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee $(OUT)/gpu.txt
	@bad=0; for t in $(tests); do \
	    if bin/$$t >$(OUT)/$$t.log 2>&1; then echo "passed $$t"; else echo "FAILED $$t"; grep -E "error|FAILED|distance|bits" $(OUT)/$$t.log; bad=1; fi; \
	done; exit $$bad

gpu-precompile:
	@./gpu_precompile.sh bin/proa $(OUT)

gpu-memcheck:
	@mkdir -p $(OUT); bad=0; for t in $(tests); do for tool in memcheck racecheck; do \
	    case $$tool." $(racing) " in memcheck.*|*" $$t "*) ;; \
	        *) echo "left out: $$t under $$tool, which does not follow a lane that arrives at a barrier for its warp"; continue;; esac; \
	    if compute-sanitizer --tool $$tool --error-exitcode 9 bin/$$t $$(case $$t.$$tool in *_mla_*|*_linear_warp.racecheck) echo small;; esac) >$(OUT)/$$t.$$tool.log 2>&1; then echo "passed $$t under $$tool"; \
	    else echo "FAILED $$t under $$tool"; tail -5 $(OUT)/$$t.$$tool.log; bad=1; fi; \
	done; done; exit $$bad

gpu-bench:
	@mkdir -p $(OUT); bin/proa bench slice --model-path bench/deepseek-r1 $(if $(SHAPE),--shape "$(SHAPE)") --json $(OUT)/slice.json --svg $(OUT)/slice.svg --trace $(OUT)/slice_trace.json | tee $(OUT)/slice.log
	bin/proa bench slice --model-path bench/deepseek-r1 --kv-cache-dtype fp8_e4m3 --shape "$(or $(SHAPE),decode 128)" --json $(OUT)/slice_fp8_cache.json | tee $(OUT)/slice_fp8_cache.log
	bin/gpu_test_mla_decode_fp8 bench | tee $(OUT)/mla_decode_fp8.log
	bin/gpu_bench_linear | tee $(OUT)/linear.log

gpu-bench-table:
	@mkdir -p $(OUT); bin/proa bench slice --table --model-path bench/deepseek-r1 $(if $(SHAPE),--shape "$(SHAPE)") --json $(OUT)/slice_table.json >$(OUT)/slice_table.log; \
	    rc=$$?; cat $(OUT)/slice_table.log; exit $$rc
