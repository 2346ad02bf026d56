"""Kernels by the names that engines really run: vLLM and SGLang on Hopper, vLLM on a CPU."""

import shutil
from pathlib import Path

import pytest

from leverlab.config import ConfigError
from leverlab.config.kernel_classes import KERNEL_CLASSES_FILE as FILE
from leverlab.config.profile import KERNEL_CLASSES
from leverlab.profile.classes import kernel_classes
from tests.unit.repository import SOURCE

CLASSES = kernel_classes(SOURCE)

NAMES = {
    "attention": [
        "void flash::flash_fwd_splitkv_kernel<Flash_fwd_kernel_traits<128, 64, 128, 4>, false>(flash::Flash_fwd_params)",
        "void cutlass::device_kernel<flash::enable_sm90_or_later<flash::FlashAttnFwdSm90<flash::CollectiveMainloopFwdSm90<1>>>>",
        "void cutlass::device_kernel<flash::FlashAttnFwdCombine<cute::tuple<cute::C<8>>>>",
        "void flash::prepare_varlen_num_blocks_kernel<1, true>(int, int, int)",
        "void flashinfer::BatchDecodeWithPagedKVCacheKernel<(flashinfer::PosEncodingMode)0, 2u, 8u>(Params)",
        "_fwd_grouped_kernel_stage1",
        "kernel_unified_attention_3d",
        "vllm::unified_attention_with_output",
        "_C::get_scheduler_metadata",
        "_fused_metadata_kernel_ps1_no_swa",
    ],
    "gemm": [
        "nvjet_tst_64x8_64x16_4x1_v_bz_TNT",
        "sm90_xmma_gemm_bf16bf16_bf16f32_f32_tn_n_tilesize64x64x64_warpgroupsize1x1x1_execute_segment_k_off_kernel__5x_cublas",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_32x32_128x2_tn_align8>(Params)",
        "void cublasLt::splitKreduce_kernel<32, 16, int, float, __nv_bfloat16, float>(cublasLt::cublasSplitKParams<float>)",
        "void gemv2T_kernel_val<int, int, __nv_bfloat16, __nv_bfloat16, __nv_bfloat16, float, 128, 16, 4, 4>",
        "_C::onednn_mm",
    ],
    "moe": [
        "fused_moe_kernel",
        "void vllm::moe::topkGatingSoftmax<8, 8, 4, 16, int>(float const*, bool const*, float*)",
        "void vllm::moe::moe_align_block_size_kernel<int>(int const*, int*)",
    ],
    "norm_elementwise": [
        "triton_red_fused__to_copy_add_mean_mul_pow_rsqrt_0",
        "triton_poi_fused_mul_silu_slice_1",
        "void vllm::act_and_mul_kernel<c10::BFloat16, &vllm::silu_kernel, true>",
        "void vllm::fused_add_rms_norm_kernel<c10::BFloat16, 8>",
        "void vllm::rotary_embedding_kernel<c10::BFloat16, true>",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<long>>",
        "void at::native::(anonymous namespace)::indexSelectSmallIndex<c10::BFloat16, long, unsigned int, 2, 2, -2>",
        "void flashinfer::norm::FusedAddRMSNormKernel<8u, __nv_bfloat16>",
        "aten::silu",
        "void at::native::<unnamed>::multi_tensor_apply_kernel<at::native::<unnamed>::TensorListMetadata<(int)2>, "
        "at::native::<unnamed>::UnaryOpFunctor<long, (int)2, (int)1, (int)1>, at::native::Copy<long, long>>(T1, T2, T3...)",
    ],
    "sampling": [
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::ArgMaxOps<float>, unsigned int, long, 4>>",
        "void at::native::sbtopk::gatherTopK<float, unsigned int, 2, false>",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<4, float, float, float>",
        "_gumbel_sample_kernel",
        "_topk_topp_kernel",
        "_C::greedy_argmax",
    ],
    "kv_cache": [
        "void vllm::reshape_and_cache_flash_kernel<__nv_bfloat16, __nv_bfloat16, (vllm::Fp8KVCacheDataType)0>",
        "void (anonymous namespace)::store_kvcache<1024l, 1l, true, long>",
        "_compute_slot_mapping_kernel",
        "create_flashinfer_kv_indices_triton",
        "vllm::unified_kv_cache_update",
    ],
    "communication": [
        "ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
        "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 2>(vllm::RankData*, vllm::RankSignals)",
        "multimem_all_reduce_kernel",
    ],
    "copy": [
        "[CUDA memcpy HtoD]",
        "[CUDA memset]",
        "Memcpy DtoD (Device -> Device)",
        "void at::native::elementwise_kernel<128, 4, at::native::direct_copy_kernel_cuda>",
        "aten::to",
    ],
    "other": ["what_nobody_knows"],
}


@pytest.mark.parametrize(("name", "kernel"), [(name, kernel) for name, own in NAMES.items() for kernel in own])
def test_a_kernel_is_called_what_it_does(name: str, kernel: str) -> None:
    assert CLASSES.of(kernel) == name


def test_every_class_is_tested() -> None:
    assert set(NAMES) == set(KERNEL_CLASSES)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("attention:", "attenton:", "did you mean 'attention'?"),
        ("attention:\n  patterns:", "attention:\n  pattern:", "did you mean 'patterns'?"),
        ("    - fmha\n", '    - "fmha("\n', "is no regular expression"),
    ],
)
def test_a_wrong_rule_is_named(tmp_path: Path, old: str, new: str, said: str) -> None:
    (tmp_path / "config").mkdir()
    file = tmp_path / FILE
    shutil.copy(SOURCE / FILE, file)
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=FILE) as error:
        kernel_classes(tmp_path)
    assert said in str(error.value)
